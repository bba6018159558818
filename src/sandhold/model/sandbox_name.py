"""The names that sandboxes can have, and the one that a sandbox gets when none is given."""

from __future__ import annotations

import re
from typing import Final

SANDBOX_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")

_LENGTH_MAX: Final = 63


def is_sandbox_name(text: str) -> bool:
    """Whether the text may name a sandbox: `[a-z0-9][a-z0-9_.-]{0,62}`."""
    return SANDBOX_NAME.fullmatch(text) is not None


def default_name(agent: str, folder: str) -> str:
    """Return the name of a sandbox for an agent in a folder of that name: `AGENT-FOLDER`, in the letters of names."""
    words = re.sub(r"[^a-z0-9_.-]+", "-", folder.lower()).strip("-.") or "folder"
    return f"{agent}-{words}"[:_LENGTH_MAX].rstrip("-.")
