"""What a TLS ClientHello says about where it wants to go (RFC 8446 section 4.1.2, RFC 5246 section 7.4.1.2).

1. Every length fits exactly: a vector fills what holds it, nothing lies behind the last one, and the vectors that the
   RFCs give a least size are at least that long. Extensions may be absent as a whole (TLS 1.2).
2. An extension stands at most once (RFC 8446 section 4.2).
3. `server_name` holds exactly one entry, a host name that `parse_name` reads; no address (RFC 6066 section 3).
4. Where `encrypted_client_hello` is present, also as GREASE, the outer name is what is judged; its draft predecessor
   `encrypted_server_name`, which had no outer name, is refused.
5. The legacy version is TLS 1.0, 1.1 or 1.2; what is newer is said in `supported_versions`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandhold.model.destination import MalformedError
from sandhold.wire.name import parse_name

if TYPE_CHECKING:
    from sandhold.model.destination import DomainName, HostService

# https://www.iana.org/assignments/tls-extensiontype-values
_SERVER_NAME: Final = 0
_ALPN: Final = 16
_SUPPORTED_VERSIONS: Final = 43
_ENCRYPTED_CLIENT_HELLO: Final = 0xFE0D
_ENCRYPTED_SERVER_NAME: Final = 0xFFCE
_HOST_NAME: Final = 0  # the only NameType there is, RFC 6066 section 3
_LEGACY_VERSIONS: Final = range(0x0301, 0x0304)
_RANDOM_BYTES: Final = 32
_SESSION_ID_BYTES_MAX: Final = 32
_EXTENSION: Final = struct.Struct(">HH")  # type, length of what follows: RFC 8446 section 4.2
_PAST_ITS_END: Final = "a length in the ClientHello goes past its end"


class MalformedHelloError(ValueError):
    """A ClientHello that is refused; `str()` says why, and never repeats the bytes."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """The judged part. `versions` are the numbers of `supported_versions`, or the one legacy version; GREASE left out.

    `server_name` is the outer one when `has_encrypted_client_hello`.
    """

    server_name: DomainName | HostService | None
    alpn: tuple[bytes, ...]
    versions: tuple[int, ...]
    has_encrypted_client_hello: bool


class _Cursor:
    """Takes numbers and vectors off the front of some bytes; what is missing is an error, not a shorter read."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def is_at_end(self) -> bool:
        return self._position == len(self._data)

    def take(self, size: int) -> bytes:
        start = self._position
        self._position = end = start + size
        if end > len(self._data):
            raise MalformedHelloError(_PAST_ITS_END)
        return self._data[start:end]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, length_size: int) -> bytes:
        start = self._position + length_size
        self._position = end = start + int.from_bytes(self._data[self._position : start], "big")
        if end > len(self._data):  # also when the length itself is not whole: `start` is past the end then
            raise MalformedHelloError(_PAST_ITS_END)
        return self._data[start:end]


def parse_client_hello(body: bytes) -> ClientHello:
    """Read the body of one ClientHello handshake message (without its four header bytes), in linear time.

    Raises:
        MalformedHelloError: when it is refused.
    """
    cursor = _Cursor(body)
    legacy_version = cursor.number(2)
    if legacy_version not in _LEGACY_VERSIONS:
        raise MalformedHelloError("the ClientHello is for no version of TLS")
    cursor.take(_RANDOM_BYTES)
    if len(cursor.vector(1)) > _SESSION_ID_BYTES_MAX:
        raise MalformedHelloError("the session id is too long")
    cipher_suites = cursor.vector(2)
    if not cipher_suites or len(cipher_suites) % 2:
        raise MalformedHelloError("the cipher suites are not a list")
    if not cursor.vector(1):
        raise MalformedHelloError("no compression method")
    extensions = {} if cursor.is_at_end else _parse_extensions(cursor)
    if _ENCRYPTED_SERVER_NAME in extensions:
        raise MalformedHelloError("an encrypted server name of a draft")
    name = extensions.get(_SERVER_NAME)
    alpn = extensions.get(_ALPN)
    versions = extensions.get(_SUPPORTED_VERSIONS)
    return ClientHello(
        server_name=None if name is None else _parse_server_name(name),
        alpn=() if alpn is None else _parse_alpn(alpn),
        versions=(legacy_version,) if versions is None else _parse_versions(versions),
        has_encrypted_client_hello=_ENCRYPTED_CLIENT_HELLO in extensions,
    )


def _parse_extensions(cursor: _Cursor) -> dict[int, bytes]:
    listed = cursor.vector(2)
    if not cursor.is_at_end:
        raise MalformedHelloError("bytes behind the extensions")
    extensions: dict[int, bytes] = {}
    position, size = 0, len(listed)
    while position < size:
        start = position + _EXTENSION.size
        if start > size:
            raise MalformedHelloError(_PAST_ITS_END)
        extension_type, length = _EXTENSION.unpack_from(listed, position)
        position = start + length
        if position > size:
            raise MalformedHelloError(_PAST_ITS_END)
        if extension_type in extensions:
            raise MalformedHelloError("an extension stands twice")
        extensions[extension_type] = listed[start:position]
    return extensions


def _parse_server_name(data: bytes) -> DomainName | HostService:
    names = _sole_vector(data, 2)
    if names[0] != _HOST_NAME:
        raise MalformedHelloError("the server name is no host name")
    end = 3 + int.from_bytes(names[1:3], "big")
    if end > len(names):
        raise MalformedHelloError(_PAST_ITS_END)
    if end < len(names):
        raise MalformedHelloError("more than one server name")
    try:
        return parse_name(names[3:])
    except MalformedError as error:
        raise MalformedHelloError(f"the server name is refused: {error}") from None


def _parse_alpn(data: bytes) -> tuple[bytes, ...]:
    listed = _Cursor(_sole_vector(data, 2))
    protocols = []
    while not listed.is_at_end:
        protocol = listed.vector(1)
        if not protocol:
            raise MalformedHelloError("an empty protocol name")
        protocols.append(protocol)
    return tuple(protocols)


def _parse_versions(data: bytes) -> tuple[int, ...]:
    listed = _sole_vector(data, 1)
    if len(listed) % 2:
        raise MalformedHelloError(_PAST_ITS_END)
    versions = struct.unpack(f">{len(listed) // 2}H", listed)
    return tuple([version for version in versions if not _is_grease(version)])


def _sole_vector(data: bytes, length_size: int) -> bytes:
    """Return the content of a vector that must fill all of `data` and not be empty."""
    end = length_size + int.from_bytes(data[:length_size], "big")
    if end > len(data):
        raise MalformedHelloError(_PAST_ITS_END)
    if end < len(data) or end == length_size:
        raise MalformedHelloError("a list in the ClientHello is empty or has bytes behind it")
    return data[length_size:]


def _is_grease(number: int) -> bool:
    """Values that mean nothing (RFC 8701): 0x0a0a, 0x1a1a, ... 0xfafa."""
    return number & 0x0F0F == 0x0A0A and number >> 8 == number & 0xFF
