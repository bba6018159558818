"""The proxy of the host's own network, for machines that reach the internet only through one.

1. It is spoken to with CONNECT and the name (RFC 9110 section 9.3.6), whatever goes through it afterwards.
2. Its credentials are in that request and nowhere else: not in the sandbox, not in the trail, not in an error.
3. `no_proxy` entries are names (with everything below them), addresses, networks, or `*`.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from sandhold.errors import SbxError
from sandhold.model.destination import DomainName, HostService
from sandhold.wire.need_more import NEED_MORE
from sandhold.wire.response_head import MalformedHeadError, read_response_head

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandhold.egress.stream import Stream
    from sandhold.model.destination import Destination, Host

ANSWER_BYTES_MAX: Final = 16 * 1024  # of the head that answers CONNECT
_READ_BYTES: Final = 4096


class ProxyRefusedError(Exception):
    """The proxy did not open the tunnel; `str()` says how it answered."""


@dataclass(frozen=True, slots=True)
class HostProxy:
    """Where the proxy is, how we authenticate to it, and what goes past it. `authorization` is never shown."""

    host: str
    port: int
    authorization: str | None
    no_proxy: tuple[str, ...]

    def __repr__(self) -> str:
        return f"HostProxy({self})"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def serves(self, host: Host) -> bool:
        """Whether connections to this host go through the proxy; the user's machine never does."""
        if isinstance(host, HostService):
            return False
        return not any(_matches(entry, host) for entry in self.no_proxy)


def read_proxy(environ: Mapping[str, str]) -> HostProxy | None:
    """Read the proxy that the user's own programs use: `https_proxy`, else `all_proxy`, and `no_proxy`, in either case.

    Raises:
        SbxError: when it is not one we can speak to.
    """

    def value(name: str) -> str:
        return environ.get(name) or environ.get(name.upper()) or ""

    url = value("https_proxy") or value("all_proxy")
    return parse_host_proxy(url, tuple(value("no_proxy").split(","))) if url else None


def parse_host_proxy(url: str, no_proxy: tuple[str, ...]) -> HostProxy:
    """Read `http://[user:password@]host:port`.

    Raises:
        SbxError: when it is anything else; the message does not repeat the URL, which may hold a password.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or parts.scheme != "http" or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise SbxError("the host's proxy is not `http://[user:password@]host:port`", hint="set `https_proxy` like that")
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode("ascii")
    entries = tuple(entry.strip().lower() for entry in no_proxy if entry.strip())
    return HostProxy(host, port or 80, authorization, entries)


async def open_tunnel(stream: Stream, proxy: HostProxy, destination: Destination, deadline: float) -> None:
    """Ask the proxy on the other end of `stream` for a tunnel; afterwards the stream is the tunnel.

    Raises:
        ProxyRefusedError: when it says no, or something that is no HTTP.
        TimeoutError: at the deadline.
        OSError: when the connection to it breaks.
    """
    await stream.write(_request(proxy, destination), deadline)
    buffer = b""
    while len(buffer) <= ANSWER_BYTES_MAX:
        data = await stream.read(_READ_BYTES, deadline)
        if not data:
            raise ProxyRefusedError("the host's proxy closed the connection")
        buffer += data
        try:
            event = read_response_head(buffer, "CONNECT")
        except MalformedHeadError:
            raise ProxyRefusedError("the host's proxy does not answer in HTTP/1") from None
        if event is NEED_MORE:
            continue
        head, consumed = event
        if head.is_interim:
            buffer = buffer[consumed:]
            continue
        if not 200 <= head.status < 300:
            raise ProxyRefusedError(f"the host's proxy answered {head.status}")
        stream.unread(buffer[consumed:])
        return
    raise ProxyRefusedError("the host's proxy answers with too long a head")


def _request(proxy: HostProxy, destination: Destination) -> bytes:
    lines = [f"CONNECT {destination} HTTP/1.1", f"Host: {destination}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _matches(entry: str, host: Host) -> bool:
    if entry == "*":
        return True
    match host:
        case DomainName(name):
            suffix = entry.removeprefix("*").removeprefix(".")
            return name == suffix or name.endswith("." + suffix)
        case IPv4Address() | IPv6Address():
            try:
                return host in ip_network(entry.strip("[]"), strict=False)
            except ValueError:
                return False
        case HostService():
            return True
