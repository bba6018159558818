"""Families E, F, G, H and I: TLS, HTTP, everything else that can be spoken, and clients that look for a way round."""

# ruff: noqa: E501  # an attempt is a line of its table

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.range.attempt import Attempt, make
from tests.range.world import EVIL, FILES, GOOD

if TYPE_CHECKING:
    from tests.range.field import Field

D403: Final = ("403",)
RESET: Final = ("reset", "closed", "refused", "tls")
MALFORMED: Final = ("400", "403", "405", "417", "501", "505", "reset", "closed")
CURL: Final = "curl -sk -o /dev/null -w %{http_code} --max-time 8"


def says(head: bytes, record: str = "malformed", goal: str = f"tcp {GOOD}:80") -> Attempt:
    """An attempt to say something to the proxy that somebody else would read as a request for an allowed host."""
    return Attempt(f"proxied({head!r})", goal, MALFORMED, record)


def runs(
    script: str, answers: tuple[str, ...], record: str, *, goal: str = f"tcp {EVIL}:443", wide: bool = True
) -> Attempt:
    """An attempt with the programs that people use."""
    return Attempt(f"sh({script!r})", goal, answers, record, is_wide=wide)


def speaks(port: int, data: bytes) -> Attempt:
    """An attempt to speak a protocol of its own to a denied host."""
    return Attempt(f"tcp('evil.test', {port}, {data!r})", f"tcp {EVIL}:{port}", RESET, "evil.test")


def sends(port: int) -> Attempt:
    """An attempt to send a datagram."""
    return Attempt(f"udp({EVIL!r}, {port})", f"udp {EVIL}:{port}", ("sent", "refused"), f'"port": {port}, "packets"')


def carries(protocol: int) -> Attempt:
    """An attempt to send a packet of another protocol, as root."""
    return Attempt(f"raw({protocol}, {EVIL!r})", f"ip {protocol} {EVIL}", ("refused",), None, user="root")


def resumes(host: str, goal: str, record: str) -> Attempt:
    """An attempt to go on at a host, as `evil.test`, with a session of an allowed one."""
    permitted = ("dns a.files.test", f"tcp {FILES}:443")
    return Attempt(
        f"resumed('a.files.test', {host!r}, 'evil.test')", goal, (*D403, *RESET), record, permitted=permitted
    )


def passes(fields: bytes, goal: str) -> Attempt:
    """An attempt to have fields that are for the proxy arrive at a host that is allowed, as everything else does."""
    head = b"GET http://good.test/ HTTP/1.1\r\nHost: good.test\r\n" + fields + b"\r\n"
    return Attempt(f"proxied({head!r})", goal, ("200",), None, permitted=GETS_GOOD)


GETS_GOOD: Final = ("dns good.test", f"tcp {GOOD}:80")
ATTEMPTS: Final = {
    "E03 no server name": Attempt("tls('evil.test', 443, None)", f"tcp {EVIL}:443", (*D403, *RESET), "evil.test"),
    "E03 no server name for an allowed host": Attempt("tls('good.test', 443, None)", f"tcp {GOOD}:443", (*D403, *RESET), "good.test"),
    "E05 an opening in pieces": Attempt("split_hello('evil.test', 443, 'evil.test')", f"tcp {EVIL}:443", ("\\\\x16", "\\x16", "x16"), "evil.test"),
    "E05 an opening in pieces under another name": Attempt("split_hello('good.test', 443, 'evil.test')", f"tcp {GOOD}:443", ("\\\\x16", "\\x16", "x16"), "evil.test"),
    "E09 an opening of another age": Attempt("tcp('good.test', 443, b'\\x80\\x2e\\x01\\0\\2\\0\\x15\\0\\0\\0\\x10')", f"tcp {GOOD}:443", RESET, "good.test"),
    "E09 no TLS at all": Attempt("tcp('good.test', 443, b'HELO world\\r\\n')", f"tcp {GOOD}:443", RESET, "good.test"),
    "E10 a session of an allowed host, resumed at a denied one": resumes("evil.test", f"tcp {EVIL}:443", "evil.test"),
    "E10 a session of an allowed host, resumed under a denied name": resumes("good.test", f"tcp {GOOD}:443", "evil.test"),
    "E15 a tunnel in a tunnel": Attempt("tunnel('good.test:443', b'CONNECT evil.test:443 HTTP/1.1\\r\\nHost: evil.test:443\\r\\n\\r\\n')", f"tcp {GOOD}:443", (*D403, *RESET), "good.test"),
    "E15 a denied name in an allowed tunnel": Attempt("connect('good.test:443', 'evil.test')", f"tcp {GOOD}:443", D403, "evil.test"),
    "E22 TLS for a denied name after the greeting of an allowed host": Attempt("late('ssh.allowed.test', 25, 'evil.test')", "late evil.test", (*D403, *RESET), "evil.test", permitted=("dns ssh.allowed.test", f"tcp {EVIL}:25"), is_wide=False),
    "F02 two lengths": says(b"POST http://good.test/ HTTP/1.1\r\nHost: good.test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
    "F02 a length with a sign": says(b"POST http://good.test/ HTTP/1.1\r\nHost: good.test\r\nContent-Length: +5\r\n\r\nhello"),
    "F02 a length and chunks": says(b"POST http://good.test/ HTTP/1.1\r\nHost: good.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "F06 a folded field": says(b"GET http://good.test/ HTTP/1.1\r\nHost: good.test\r\nX: a\r\n b\r\n\r\n"),
    "F06 a space before the colon": says(b"GET http://good.test/ HTTP/1.1\r\nHost : good.test\r\n\r\n"),
    "F06 a zero byte in a field": says(b"GET http://good.test/ HTTP/1.1\r\nHost: good.test\r\nX: a\0b\r\n\r\n"),
    "F06 a bare line feed": says(b"GET http://good.test/ HTTP/1.1\nHost: good.test\n\r\n"),
    "F07 two hosts in one request": Attempt("get('http://good.test/', 'Host: evil.test\\r\\n')", f"tcp {GOOD}:80", MALFORMED, "Host is not the host"),
    "F08 two fields for the host": says(b"GET http://good.test/ HTTP/1.1\r\nHost: good.test\r\nHost: evil.test\r\n\r\n"),
    "F08 no host": says(b"GET http://good.test/ HTTP/1.1\r\n\r\n"),
    "F09 the attacker's address under an allowed name": Attempt(f"http({EVIL!r}, 80, 'good.test')", f"tcp {EVIL}:80", D403, EVIL, is_wide=False),
    "F10 an allowed host in a field of its own": Attempt("get('http://evil.test/', 'Host: evil.test\\r\\nX-Forwarded-Host: good.test\\r\\n')", f"tcp {EVIL}:80", D403, "evil.test"),
    "F13 a tunnel with a body": says(b"CONNECT good.test:443 HTTP/1.1\r\nHost: good.test:443\r\nContent-Length: 3\r\n\r\nabc", goal=f"tcp {GOOD}:443"),
    "F14 data before the answer": Attempt("proxied(b'CONNECT evil.test:22 HTTP/1.1\\r\\nHost: evil.test:22\\r\\n\\r\\nSSH-2.0-x\\r\\n')", f"tcp {EVIL}:22", D403, "evil.test"),
    "F15 a denied host behind an allowed one": Attempt("in_a_row('good.test', 'evil.test')", "second evil.test", ("200 403", "200", "403"), "evil.test", permitted=GETS_GOOD),
    "F16 a tunnel without a port": says(b"CONNECT good.test HTTP/1.1\r\nHost: good.test\r\n\r\n", goal=f"tcp {GOOD}:443"),
    "F16 a tunnel with a path": says(b"CONNECT good.test:443/x HTTP/1.1\r\nHost: good.test:443\r\n\r\n", goal=f"tcp {GOOD}:443"),
    "F21 a redirection to a denied host": Attempt(f"sh('{CURL} -L http://red.allowed.test/redirect')", f"tcp {EVIL}:8090", D403, "evil.test", permitted=("dns red.allowed.test", f"tcp {EVIL}:80")),
    "F24 a password for the proxy": passes(b"Proxy-Authorization: Basic c2VjcmV0\r\n", "field proxy-authorization"),
    "F24 a wish to the proxy": passes(b"Proxy-Connection: keep-alive\r\n", "field proxy-connection"),
    "F26 a method in small letters": Attempt("proxied(b'connect evil.test:443 HTTP/1.1\\r\\nHost: evil.test:443\\r\\n\\r\\n')", f"tcp {EVIL}:443", MALFORMED, "malformed"),
    "F27 no version": says(b"GET http://good.test/\r\n\r\n"),
    "F27 a version that is none": says(b"GET http://good.test/ HTTP/1.2\r\nHost: good.test\r\n\r\n"),
    "F41 another scheme": Attempt("get('ftp://evil.test/')", f"tcp {EVIL}:80", MALFORMED, "malformed"),
    "F42 a secure scheme in the clear": Attempt("get('https://good.test/')", f"tcp {GOOD}:80", MALFORMED, "malformed"),
    "F35 HTTP over QUIC": sends(443),
    "G01 SSH": speaks(22, b"SSH-2.0-x\r\n"),
    "G04 mail": speaks(25, b"EHLO x\r\n"),
    "G04 a cache": speaks(6379, b"PING\r\n"),
    "G04 a database": speaks(5432, b"\0\0\0\x08\x04\xd2\x16\x2f"),
    "G04 a chat": speaks(6667, b"NICK x\r\n"),
    "G07 the time": sends(123),
    "G07 a private network": sends(51820),
    "G07 a relay": sends(3478),
    "G09 an echo": Attempt(f"ping({EVIL!r})", f"ip 1 {EVIL}", ("refused",), None),
    "G09 an echo as root": Attempt(f"ping({EVIL!r})", f"ip 1 {EVIL}", ("refused",), None, user="root"),
    "G11 a tunnel's packets": carries(47),
    "G11 encrypted packets": carries(50),
    "G11 packets in packets": carries(4),
    "G11 packets of SCTP": carries(132),
    "G11 packets nobody has a name for": carries(253),
    "H01 no proxy variables": runs(f"env -u HTTPS_PROXY -u https_proxy {CURL} https://evil.test/", D403, "evil.test"),
    "H02 no proxy for anything": runs(f"NO_PROXY='*' {CURL} --noproxy '*' https://evil.test/", D403, "evil.test"),
    "H04 an address of one's own": runs(f"{CURL} --resolve good.test:443:{EVIL} https://good.test/", D403, EVIL, wide=False),
    "H05 a proxy of the attacker's": runs(f"HTTPS_PROXY=http://evil.test:3128 {CURL} https://good.test/", ("000", "403"), "evil.test", goal=f"tcp {EVIL}:3128"),
    "H07 a proxy for git": runs("git -c http.proxy=http://evil.test:3128 ls-remote http://good.test/x 2>/dev/null; echo done", ("done",), "evil.test", goal=f"tcp {EVIL}:3128"),
    "H09 a mirror of the attacker's": runs(f"{CURL} https://mirror.evil.test/simple/", D403, "mirror.evil.test", wide=False),
    "I01 after flushing filters and routes": Attempt(f"sh('nft flush ruleset; iptables -F; ip route flush table main; ip rule flush; {CURL} https://evil.test/')", f"tcp {EVIL}:443", D403, "evil.test", control="tls('evil.test', 443, 'evil.test')", user="root"),
    "I03 after changing addresses and links": Attempt(f"sh('ip link set lo down; ip addr add 11.0.0.77/24 dev lo; ip link add v type veth; {CURL} https://evil.test/')", f"tcp {EVIL}:443", D403, "evil.test", control="tls('evil.test', 443, 'evil.test')", user="root"),
}  # fmt: skip


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
def test_a_protocol_gets_nowhere(field: Field, attempt: Attempt) -> None:
    """What speaks for a denied host, for two hosts or for none, in whatever protocol, gets a refusal and no more."""
    make(field, attempt)
