"""Addresses that were found not to be this machine's own: asked about once in a moment, not for each connection.

What is remembered is only that an address is a stranger's. This machine has to take one of the internet's addresses for
its own to make that wrong, which no sandbox can bring about; it is noticed `KEPT_S` later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sandhold.egress.answers import KEPT_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandhold.egress.answers import Address

STRANGERS_MAX: Final = 1024  # four for each name whose answer is kept; then they are asked about anew


class Strangers:
    """What is known of addresses, for one sandbox; `is_own` asks the kernel about one that it does not know."""

    def __init__(self, clock: Callable[[], float], is_own: Callable[[Address], bool]) -> None:
        self._clock = clock
        self._is_own = is_own
        self._until: dict[Address, float] = {}

    def is_own(self, address: Address) -> bool:
        """Whether an interface of this machine has the address, as was found out within `KEPT_S`."""
        now = self._clock()
        if self._until.get(address, now) > now:
            return False
        if self._is_own(address):
            return True
        if len(self._until) >= STRANGERS_MAX:
            self._until.clear()
        self._until[address] = now + KEPT_S
        return False
