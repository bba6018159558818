"""What a session keeps in its sandbox's folder while it runs, and what is left of it there."""

from __future__ import annotations

import os
from typing import Final

LOCK_NAME: Final = "session.lock"
MARKER_NAME: Final = "session.json"
WORD_NAME: Final = "last-words"


def is_in_order(folder: str) -> bool:
    """Whether no session runs or was killed there, as far as markers say, and none has left a word of its end."""
    return not os.access(f"{folder}/{MARKER_NAME}", os.F_OK) and not os.access(f"{folder}/{WORD_NAME}", os.F_OK)
