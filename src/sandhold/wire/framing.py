"""How long the body after a head is (RFC 9112 section 6)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NoBody:
    """Nothing follows the head."""


@dataclass(frozen=True, slots=True)
class Length:
    """So many bytes follow, at least one."""

    size: int


@dataclass(frozen=True, slots=True)
class Chunked:
    """A chunked body follows; `chunked.ChunkedReader` finds its end."""


@dataclass(frozen=True, slots=True)
class UntilClose:
    """Everything until the far end closes; only a response can say so."""


RequestFraming = NoBody | Length | Chunked
ResponseFraming = NoBody | Length | Chunked | UntilClose
