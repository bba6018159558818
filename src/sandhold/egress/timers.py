"""The deadlines of tasks that wait, in a heap (heapq): part of the event loop, see `reactor.py`.

A task has one entry that counts, the earliest it was given. A later deadline waits in the task until that entry comes
up: most waits end long before their deadlines, and the next one then needs no entry of its own.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

from sandhold.egress.tasks import NEVER

if TYPE_CHECKING:
    from sandhold.egress.tasks import Task

STALE_MAX: Final = 1024  # dead entries kept before the heap is rebuilt

_Entry = tuple[float, int, "Task"]


class Timers:
    """Who is to be resumed when, by the reactor's clock; nobody is before `next_at`."""

    def __init__(self) -> None:
        self.next_at = NEVER
        self._heap: list[_Entry] = []
        self._count = 0
        self._rebuild_at = STALE_MAX

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, task: Task, at: float) -> None:
        """Enter a task that has no entry as early as this."""
        task.timer_at = at
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, task))
        self.next_at = self._heap[0][0]
        if len(self._heap) > self._rebuild_at:
            self._heap = [entry for entry in self._heap if not _is_stale(entry)]
            heapq.heapify(self._heap)
            self._rebuild_at = STALE_MAX + 2 * len(self._heap)

    def first_at(self) -> float:
        """When the next entry that counts comes up; `NEVER` when there is none."""
        heap = self._heap
        while heap and _is_stale(heap[0]):
            heapq.heappop(heap)
        self.next_at = heap[0][0] if heap else NEVER
        return self.next_at

    def take_due(self, now: float) -> Task | None:
        """Take out one task whose deadline has come; None when there is none."""
        while self.first_at() <= now:
            task = heapq.heappop(self._heap)[2]
            task.timer_at = NEVER
            if task.deadline <= now:
                return task
            if task.deadline < NEVER:
                self.set(task, task.deadline)
        return None


def _is_stale(entry: _Entry) -> bool:
    at, _, task = entry
    return task.is_done or task.timer_at != at
