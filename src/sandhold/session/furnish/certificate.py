"""The parts of a certificate that stores of trust are made of (RFC 5280 section 4.1), in DER (X.690)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_VERSION: Final = 0xA0


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and, as whole elements, its serial number and the names of who signed it and whom it is for."""

    der: bytes
    serial: bytes
    issuer: bytes
    subject: bytes


def read_certificate(der: bytes) -> Certificate:
    """Take a certificate apart.

    Raises:
        ValueError: when it is none, or is cut short.
    """
    try:
        ((_, _, certificate),) = elements(der)
        (_, _, signed), *_ = elements(certificate)
        serial, _, issuer, _, subject = [whole for tag, whole, _ in elements(signed) if tag != _VERSION][:5]
    except IndexError:
        raise ValueError("it is cut short") from None
    return Certificate(der, serial, issuer, subject)


def elements(der: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield tag, whole element and content of each element (X.690 section 8.1).

    Raises:
        IndexError: when one is cut short in its first bytes.
    """
    start = 0
    while start < len(der):
        length, content = der[start + 1], start + 2
        if length & 0x80:
            content += length & 0x7F
            length = int.from_bytes(der[start + 2 : content])
        yield der[start], der[start : content + length], der[content : content + length]
        start = content + length
