"""Event ids: 26 characters of Crockford base 32, sortable by time (the ULID specification)."""

from __future__ import annotations

import secrets
from typing import Final

from sandhold.model.event import EventId

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_TIME_BITS: Final = 48
_RANDOM_BITS: Final = 80
_CHARACTERS: Final = 26


def new_event_id(now: float) -> EventId:
    """Make an id that nobody can guess; `now` is in seconds since the epoch."""
    milliseconds = int(now * 1000) & ((1 << _TIME_BITS) - 1)
    number = (milliseconds << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
    return EventId("".join(_ALPHABET[(number >> shift) & 31] for shift in range((_CHARACTERS - 1) * 5, -1, -5)))
