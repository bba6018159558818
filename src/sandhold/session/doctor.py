"""What this host can do and what is missing, as `sbx doctor` says it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandhold.cell.checks import Check, host_checks
from sandhold.session.trial import settle

if TYPE_CHECKING:
    from sandhold.paths import Paths

__all__ = ["Check", "examine"]


def examine(paths: Paths) -> tuple[Check, ...]:
    """Try what sandboxes need, for real, and return a line for each. Whether the processor runs machines takes half a
    minute to find out where it does not after all, and is found out once."""
    return host_checks(settle(paths))
