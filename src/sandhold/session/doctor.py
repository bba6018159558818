"""What this host can do and what is missing, as `sbx doctor` says it."""

from __future__ import annotations

from sandhold.cell.checks import Check, host_checks

__all__ = ["Check", "examine"]


def examine() -> tuple[Check, ...]:
    """Try what sandboxes need, for real, and return a line for each."""
    return host_checks()
