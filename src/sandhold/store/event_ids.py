"""Fresh event ids: the format is the model's, the randomness is the system's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandhold.model.event import ULID_RANDOM_BYTES, make_event_id

if TYPE_CHECKING:
    from sandhold.model.event import EventId


def new_event_id(now: float) -> EventId:
    """Make an id that nobody can guess; `now` is in seconds since the epoch."""
    return make_event_id(int(now * 1000), os.urandom(ULID_RANDOM_BYTES))
