"""What the reactor runs and what tasks wait for each other with; see `reactor.py`."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

    from sandhold.egress.reactor import Reactor

T = TypeVar("T")

NEVER: Final = float("inf")


class Cancelled(BaseException):
    """Raised at the await of a task that is to end; no `Exception`, so that only a `finally` sees it."""


class Task:
    """One running coroutine."""

    __slots__ = ("_joiner", "_reactor", "coroutine", "deadline", "is_cancelled", "is_done", "name", "timer_at")

    def __init__(self, reactor: Reactor, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        self._reactor = reactor
        self._joiner: Pending[None] | None = None
        self.coroutine = coroutine
        self.name = name
        self.deadline = NEVER
        self.timer_at = NEVER
        self.is_done = False
        self.is_cancelled = False

    def cancel(self) -> None:
        """Make the task's present (or next) await raise `Cancelled`, in the next turn of the loop; once is enough."""
        if not (self.is_done or self.is_cancelled):
            self.is_cancelled = True
            self._reactor.wake(self)

    async def join(self, deadline: float) -> None:
        """Wait for the task to end, whatever its outcome; one task may wait for another.

        Raises:
            TimeoutError: at the deadline.
        """
        if not self.is_done:
            self._joiner = Pending(self._reactor)
            await self._joiner.wait(deadline)

    def finish(self) -> None:
        """Mark the task as ended and wake who waits for that; called by the reactor.

        The coroutine is let go: a relay keeps its connection's task, and does without its frame.
        """
        self.is_done = True
        del self.coroutine
        if self._joiner is not None:
            self._joiner.resolve(None)


class Pending(Generic[T]):
    """A value that comes once, from another task or, through `Reactor.post`, from another thread."""

    __slots__ = ("_error", "_reactor", "_task", "_value", "is_done")

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._task: Task | None = None
        self._value: T | None = None
        self._error: BaseException | None = None
        self.is_done = False

    def resolve(self, value: T) -> None:
        """Deliver the value; the first delivery counts."""
        if not self.is_done:
            self._value = value
            self._settle()

    def fail(self, error: BaseException) -> None:
        """Deliver an error; the first delivery counts."""
        if not self.is_done:
            self._error = error
            self._settle()

    @types.coroutine
    def wait(self, deadline: float) -> Generator[None, None, T]:
        """Wait for the delivery; one task at a time.

        Raises:
            TimeoutError: at the deadline.
            BaseException: what `fail` was given.
        """
        while not self.is_done:
            self._task = self._reactor.begin_wait(deadline)
            try:
                yield
            finally:
                self._task = None
        if self._error is not None:
            raise self._error
        return cast("T", self._value)

    def _settle(self) -> None:
        self.is_done = True
        if self._task is not None:
            self._reactor.wake(self._task)
