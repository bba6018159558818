"""The head of one HTTP/1 request (RFC 9112 section 3, RFC 9110 section 7); lines, fields and framing as in `fields`.

1. The request line is a method, one space, a target, one space and `HTTP/1.1` or `HTTP/1.0`, nothing else.
2. A method is an exact token without a lower-case letter, at most 32 characters: some servers read `get` as `GET`.
3. A target is visible ASCII without a fragment, at most 16 KiB, in one of four forms: origin (`/path?query`); absolute
   (`http://host[:port][/path]`, never another scheme, never with user information, never inside TLS); authority
   (`host:port`) with CONNECT and only there; `*` with OPTIONS and only there.
4. HTTP/1.1 has exactly one `Host`, HTTP/1.0 at most one, and it is a host with an optional port, never empty or a list.
5. A target that names a host and a `Host` field name the same one, else the request is refused; for CONNECT the field
   may leave the port out.
6. CONNECT has neither `Content-Length` nor `Transfer-Encoding`.
7. `Expect` is `100-continue` or absent.
8. An upgrade is one protocol in `Upgrade`, named by `Connection`, in HTTP/1.1 without a body; `h2c`, HTTP and TLS are
   never taken up, because the requests inside would go unread.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Final

from sandhold.model.decision import Reason
from sandhold.model.destination import HostService, MalformedError, parse_authority
from sandhold.wire import fields as lines_of
from sandhold.wire.fields import MalformedHeadError
from sandhold.wire.framing import NoBody
from sandhold.wire.need_more import NEED_MORE, NeedMore

if TYPE_CHECKING:
    from sandhold.model.destination import Host
    from sandhold.wire.fields import Fields
    from sandhold.wire.framing import RequestFraming

__all__ = ["MalformedHeadError", "RequestHead", "TargetForm", "read_request_head", "upstream_head"]

HTTP_PORT: Final = 80

_METHOD = re.compile(rb"[!#$%%&'*+\-.^_`|~0-9A-Z]{1,%d}" % lines_of.METHOD_CHARS_MAX)
_TARGET = re.compile(rb"[!\"$-~]+")  # 0x21 to 0x7e without `#`
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
_ABSOLUTE = re.compile(r"http://([^/?]*)(/[^?]*)?(\?.*)?")
_UPGRADE = re.compile(lines_of.TOKEN + rb"(?:/" + lines_of.TOKEN + rb")?")
_UNREAD_UPGRADES: Final = frozenset({b"h2c", b"h2", b"http", b"tls"})


class TargetForm(StrEnum):
    """How the request line names what it wants (RFC 9112 section 3.2)."""

    ORIGIN = "origin"
    ABSOLUTE = "absolute"
    AUTHORITY = "authority"
    ASTERISK = "asterisk"


@dataclass(frozen=True, slots=True)
class RequestHead:
    """One request as every other program reads it.

    `authority` is the one host and port it is for, None only for HTTP/1.0 without `Host`; `names_port` says whether the
    port was written or is the default. `path` is the origin-form with its query, `*` in asterisk-form, empty for
    CONNECT. `version` is `HTTP/1.1` or `HTTP/1.0`. `upgrade` is the one protocol asked for.
    """

    method: str
    form: TargetForm
    authority: tuple[Host, int] | None
    names_port: bool
    path: str
    version: str
    headers: Fields
    framing: RequestFraming
    is_keep_alive: bool
    upgrade: bytes | None
    expects_continue: bool

    @property
    def path_without_query(self) -> str:
        """What goes on record."""
        return self.path.partition("?")[0]

    def values(self, name: bytes) -> tuple[bytes, ...]:
        """Every value of the fields called `name` (lower case), in order."""
        return lines_of.field_values(self.headers, name)


@dataclass(frozen=True, slots=True)
class _Target:
    """A target as written; `authority_text` is None when it names no host."""

    form: TargetForm
    authority_text: str | None
    path: str


def read_request_head(buffer: bytes, *, default_port: int = HTTP_PORT) -> tuple[RequestHead, int] | NeedMore:
    """Read the request head that `buffer` starts with; the number is how many bytes it took.

    `default_port` is the port of an authority without one: 80, or 443 for requests inside intercepted TLS.

    Raises:
        MalformedHeadError: when it is refused; final, whatever follows.
    """
    head = lines_of.split_head(buffer)
    if head is NEED_MORE:
        return NEED_MORE
    lines, consumed = head
    method, target_text, version = _parse_request_line(lines[0])
    target = _parse_target(method, target_text, default_port)
    headers = lines_of.parse_fields(lines[1:])
    authority, names_port = _find_authority(target, lines_of.field_values(headers, b"host"), version, default_port)
    framing = _find_framing(method, headers, version)
    request = RequestHead(
        method=method,
        form=target.form,
        authority=authority,
        names_port=names_port,
        path=target.path,
        version=version,
        headers=headers,
        framing=framing,
        is_keep_alive=lines_of.is_keep_alive(headers, version),
        upgrade=_find_upgrade(headers, version, framing) if method != "CONNECT" else None,
        expects_continue=_expects_continue(headers, version),
    )
    return request, consumed


def upstream_head(head: RequestHead, *, default_port: int = HTTP_PORT, close: bool = False) -> bytes:
    """Rebuild the head for the far end, not for CONNECT: origin-form, one `Host` first, made from the authority.

    Fields for one connection only are left out, except `TE: trailers` and a taken-up upgrade, which we name in a
    `Connection` of our own. The user's machine is called `localhost` there, as its own programs call it. `close` adds
    `Connection: close`.
    """
    assert head.form is not TargetForm.AUTHORITY
    kept: list[tuple[bytes, bytes]] = []
    if head.authority is not None:
        kept.append((b"Host", _write_authority(head.authority, default_port)))
    kept += [(name, value) for name, value in lines_of.end_to_end(head.headers) if name.lower() != b"host"]
    options = [b"close"] if close else []
    if b"trailers" in lines_of.field_tokens(head.headers, b"te"):
        kept.append((b"TE", b"trailers"))
        options.append(b"TE")
    if head.upgrade is not None:
        kept.append((b"Upgrade", head.upgrade))
        options.append(b"Upgrade")
    if options:
        kept.append((b"Connection", b", ".join(options)))
    start_line = f"{head.method} {head.path} {head.version}".encode("ascii")
    return lines_of.write_head(start_line, tuple(kept))


def _parse_request_line(line: bytes) -> tuple[str, str, str]:
    parts = line.split(b" ")
    if len(parts) != 3:
        raise MalformedHeadError("the request line is not method, target and version")
    method, target, version = parts
    if not _METHOD.fullmatch(method):
        raise MalformedHeadError("not a method")
    if len(target) > lines_of.TARGET_BYTES_MAX:
        raise MalformedHeadError("the target is too long", reason=Reason.OPENING_TOO_LARGE, status=414)
    if not _TARGET.fullmatch(target):
        raise MalformedHeadError("the target has a fragment or a character that belongs in no URI")
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        known = _VERSION.fullmatch(version) is not None
        raise MalformedHeadError("not HTTP/1.1 or HTTP/1.0", status=505 if known else 400)
    return method.decode("ascii"), target.decode("ascii"), version.decode("ascii")


def _parse_target(method: str, text: str, default_port: int) -> _Target:
    if method == "CONNECT":
        return _Target(TargetForm.AUTHORITY, text, "")
    if text.startswith("/"):
        return _Target(TargetForm.ORIGIN, None, text)
    if text == "*":
        if method != "OPTIONS":
            raise MalformedHeadError("`*` is a target of OPTIONS only")
        return _Target(TargetForm.ASTERISK, None, "*")
    match = _ABSOLUTE.fullmatch(text)
    if match is None:
        raise MalformedHeadError("the target is no path, and no URI that starts with http://")
    if default_port != HTTP_PORT:
        raise MalformedHeadError("an http:// target inside TLS")
    authority, path, query = match.groups(default="")
    if method == "OPTIONS" and not path and not query:
        return _Target(TargetForm.ABSOLUTE, authority, "*")  # RFC 9112 section 3.2.4
    return _Target(TargetForm.ABSOLUTE, authority, (path or "/") + query)


def _find_authority(
    target: _Target, hosts: tuple[bytes, ...], version: str, default_port: int
) -> tuple[tuple[Host, int] | None, bool]:
    """Rules 4 and 5; also whether the port was written."""
    if not hosts and version == "HTTP/1.1":
        raise MalformedHeadError("no Host")
    named = target.authority_text
    if target.form is TargetForm.AUTHORITY:
        assert named is not None
        authority = _authority(named, None)
        if hosts and hosts[0] != named.encode("ascii") and _authority(hosts[0], authority[1]) != authority:
            raise MalformedHeadError("Host is not the host of the target")
        return authority, True
    if named is None:
        field = _authority(hosts[0], default_port) if hosts else None
        return field, bool(hosts) and _names_port(hosts[0].decode("ascii"))
    authority = _authority(named, default_port)
    if hosts and hosts[0] != named.encode("ascii") and _authority(hosts[0], default_port) != authority:
        raise MalformedHeadError("Host is not the host of the target")
    return authority, _names_port(named)


def _authority(text: bytes | str, default_port: int | None) -> tuple[Host, int]:
    try:
        return parse_authority(text, default_port)
    except MalformedError as error:
        raise MalformedHeadError(f"the host is refused: {error}") from None


def _names_port(authority_text: str) -> bool:
    return ":" in authority_text and not authority_text.endswith("]")


def _find_framing(method: str, headers: Fields, version: str) -> RequestFraming:
    framing = lines_of.parse_framing(headers, version)
    if framing is None:
        return NoBody()
    if method == "CONNECT":
        raise MalformedHeadError("CONNECT with a body")
    return framing


def _find_upgrade(headers: Fields, version: str, framing: RequestFraming) -> bytes | None:
    protocols = lines_of.field_values(headers, b"upgrade")
    if len(protocols) != 1 or version != "HTTP/1.1" or not isinstance(framing, NoBody):
        return None
    if b"upgrade" not in lines_of.field_tokens(headers, b"connection") or not _UPGRADE.fullmatch(protocols[0]):
        return None
    return None if protocols[0].lower().partition(b"/")[0] in _UNREAD_UPGRADES else protocols[0]


def _expects_continue(headers: Fields, version: str) -> bool:
    expectations = lines_of.field_values(headers, b"expect")
    if not expectations:
        return False
    if len(expectations) > 1 or expectations[0].lower() != b"100-continue":
        raise MalformedHeadError("an expectation other than 100-continue")
    return version == "HTTP/1.1"  # RFC 9110 section 10.1.1: not of an HTTP/1.0 client


def _write_authority(authority: tuple[Host, int], default_port: int) -> bytes:
    host, port = authority
    match host:
        case HostService():
            text = "localhost"
        case IPv6Address():
            text = f"[{host}]"
        case _:
            text = str(host)
    return (text if port == default_port else f"{text}:{port}").encode("ascii")
