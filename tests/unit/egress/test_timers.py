"""Deadlines in a heap: which one comes up, and which do not count any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandhold.egress.reactor import NEVER, Reactor
from sandhold.egress.timers import STALE_MAX, Timers

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandhold.egress.tasks import Task


def in_a_loop(look: Callable[[Timers, Task, Task], None]) -> None:
    """Call `look(timers, a task that runs, a task that has ended)`."""
    reactor = Reactor()

    async def nothing() -> None:
        return

    async def main() -> None:
        look(Timers(), reactor.current(), reactor.spawn(nothing(), "nothing"))
        reactor.current().timer_at = NEVER

    reactor.run(main())


def test_nobody_is_woken_before_the_deadline() -> None:
    """An entry that comes up before its task's deadline is entered again for that; the task comes out at it, once."""

    def look(timers: Timers, task: Task, _: Task) -> None:
        timers.set(task, 5.0)
        task.deadline = 9.0
        assert timers.take_due(4.0) is None
        assert timers.take_due(6.0) is None
        assert (timers.next_at, timers.first_at()) == (9.0, 9.0)
        assert timers.take_due(9.0) is task
        assert timers.take_due(9.0) is None
        assert timers.next_at == NEVER

    in_a_loop(look)


def test_a_task_without_a_deadline_is_not_woken() -> None:
    """What waits for nothing any more has no entry when its old one has come up."""

    def look(timers: Timers, task: Task, _: Task) -> None:
        timers.set(task, 5.0)
        task.deadline = NEVER
        assert timers.take_due(5.0) is None
        assert len(timers) == 0

    in_a_loop(look)


def test_an_earlier_deadline_takes_the_place_of_a_later_one() -> None:
    """Of two entries of a task the earlier one counts; the other wakes nobody and keeps nobody from sleeping."""

    def look(timers: Timers, task: Task, _: Task) -> None:
        timers.set(task, 5.0)
        timers.set(task, 3.0)
        task.deadline = 3.0
        assert timers.next_at == 3.0
        assert timers.take_due(3.0) is task
        assert timers.first_at() == NEVER

    in_a_loop(look)


def test_tasks_that_have_ended_leave_nothing_behind() -> None:
    """Their entries wake nobody, and beyond a limit are not kept either."""

    def look(timers: Timers, _: Task, ended: Task) -> None:
        for at in range(STALE_MAX * 3):
            timers.set(ended, 1.0 + at)
        assert len(timers) <= STALE_MAX
        assert timers.first_at() == NEVER
        assert timers.take_due(1e9) is None

    in_a_loop(look)
