"""The proxy of the host's own network: how it is named, what goes past it, and what it may answer."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from sandhold.egress.host_proxy import ProxyRefusedError, open_tunnel, parse_host_proxy, read_proxy
from sandhold.egress.reactor import Reactor
from sandhold.egress.stream import Stream
from sandhold.errors import SbxError
from sandhold.model.destination import Destination, DomainName, HostService, Source

if TYPE_CHECKING:
    from sandhold.model.destination import Host

GOOD = Destination(DomainName("good.test"), 443, Source.DNS)

PAST = {
    "a name in the list": (["good.test"], DomainName("good.test"), False),
    "a name below one in the list": (["good.test"], DomainName("a.good.test"), False),
    "a name below one that starts with a dot": ([".good.test"], DomainName("a.good.test"), False),
    "a name that only ends alike": (["good.test"], DomainName("nogood.test"), True),
    "a network in the list": (["203.0.113.0/24"], ip_address("203.0.113.9"), False),
    "an address outside the network": (["203.0.113.0/24"], ip_address("198.51.100.1"), True),
    "an IPv6 address in brackets": (["[2001:db8::1]"], ip_address("2001:db8::1"), False),
    "everything": (["*"], DomainName("good.test"), False),
    "the user's machine, whatever is listed": ([], HostService(), False),
    "nothing listed": ([], DomainName("good.test"), True),
}


@pytest.mark.parametrize(("entries", "host", "through"), PAST.values(), ids=PAST.keys())
def test_what_goes_past_the_proxy(entries: list[str], host: Host, *, through: bool) -> None:
    """`no_proxy` lists names with all below them, addresses and networks."""
    assert parse_host_proxy("http://proxy.test:3128", tuple(entries)).serves(host) is through


@pytest.mark.parametrize(
    "url", ["socks5://p.test:1", "p.test:3128", "http://p.test:99999", "http://p.test/x", "http://"]
)
def test_another_kind_of_proxy_is_refused(url: str) -> None:
    """A proxy that we cannot speak to is an error, never a direct connection."""
    with pytest.raises(SbxError):
        parse_host_proxy(url, ())


def test_a_password_is_never_shown() -> None:
    """The credentials are in no text that a proxy, or an error about one, turns into."""
    proxy = parse_host_proxy("http://user:p%40ss@proxy.test:3128", ())
    assert "p@ss" not in repr(proxy) + str(proxy)
    assert proxy.authorization is not None
    assert proxy.authorization not in repr(proxy)
    with pytest.raises(SbxError) as caught:
        parse_host_proxy("https://user:secret@proxy.test:3128", ())
    assert "secret" not in str(caught.value)


def test_the_environment_is_read_in_either_case() -> None:
    """The variables are those that the user's other programs read."""
    assert read_proxy({}) is None
    assert str(read_proxy({"HTTPS_PROXY": "http://a.test:1"})) == "a.test:1"
    assert str(read_proxy({"https_proxy": "http://b.test:2", "HTTPS_PROXY": "http://a.test:1"})) == "b.test:2"
    proxy = read_proxy({"all_proxy": "http://c.test", "NO_PROXY": "good.test, other.test"})
    assert str(proxy) == "c.test:80"
    assert proxy is not None
    assert not proxy.serves(DomainName("other.test"))


def tunnel(answer: bytes) -> bytes:
    """What comes through the tunnel after the proxy has answered like this."""
    reactor = Reactor()
    seen: list[bytes] = []
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)

        async def main() -> None:
            stream = Stream(reactor, ours)
            try:
                await open_tunnel(stream, parse_host_proxy("http://p.test:1", ()), GOOD, reactor.clock() + 20)
                seen.append(await stream.read(100, reactor.clock() + 20))
            finally:
                stream.close()

        reactor.run(main())
    return b"".join(seen)


def test_bytes_behind_the_answer_are_the_tunnels() -> None:
    """What the far end says at once is not lost with the proxy's head."""
    assert tunnel(b"HTTP/1.1 200 OK\r\nX: y\r\n\r\nSSH-2.0-x") == b"SSH-2.0-x"


ANSWERS = {
    "a demand for credentials": b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
    "a redirection": b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
    "no HTTP": b"SSH-2.0-x\r\n\r\n",
    "an end": b"",
    "half a head": b"HTTP/1.1 200 OK\r\n",
    "too long a head": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000,
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_any_other_answer_opens_nothing(answer: bytes) -> None:
    """Only a 2xx is a tunnel."""
    with pytest.raises(ProxyRefusedError):
        tunnel(answer)
