"""The answer of every reader in this room while the bytes so far decide nothing."""

from __future__ import annotations

from enum import Enum
from typing import Final


class NeedMore(Enum):
    """The type of `NEED_MORE`, compared with `is`."""

    NEED_MORE = "need more"


NEED_MORE: Final = NeedMore.NEED_MORE
