"""Lengths of time as people type and read them: `30m`, `2h`, `7d`."""

from __future__ import annotations

import re
from typing import Final

_DURATION: Final = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> float | None:
    """Return the seconds that a number and one of s, m, h, d stand for; None when the text is not of that form."""
    match = _DURATION.fullmatch(text)
    return float(int(match[1]) * _SECONDS[match[2]]) if match is not None else None


def format_duration(seconds: float) -> str:
    """Return a length of time in its largest whole unit."""
    unit, size = next(((unit, size) for unit, size in reversed(_SECONDS.items()) if seconds >= size), ("s", 1))
    return f"{int(seconds // size)}{unit}"
