"""What every record says of its circumstances: when, and at whose wish; the rooms below are handed both."""

from __future__ import annotations

import getpass
import time
from typing import Final

from sandhold.store.audit import Clock

CLOCK: Final = Clock(time.time, time.monotonic_ns)


def actor() -> str:
    """Return the user's name on this host."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
