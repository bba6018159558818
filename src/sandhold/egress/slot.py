"""What one registered descriptor is waited for, by tasks and by what needs none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandhold.egress.bulk import READABLE, WRITABLE

if TYPE_CHECKING:
    from sandhold.egress.bulk import Served
    from sandhold.egress.tasks import Task


class Slot:
    """One descriptor: `mask` is what the kernel reports of it, -1 once it is given up; `born` the turn it was entered.

    `reader` and `writer` wait; `served` is called for `events`, and its turn comes for those in `due`.
    """

    __slots__ = ("born", "due", "events", "mask", "reader", "served", "writer")

    def __init__(self, born: int) -> None:
        self.born = born
        self.mask = 0
        self.reader: Task | None = None
        self.writer: Task | None = None
        self.served: Served | None = None
        self.events = 0
        self.due = 0

    @property
    def wanted(self) -> int:
        """What somebody waits for now."""
        return self.events | (READABLE if self.reader else 0) | (WRITABLE if self.writer else 0)
