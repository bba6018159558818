"""A few threads for calls that block, such as name look-ups; their results come back to the reactor."""

from __future__ import annotations

import functools
import queue
import threading
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sandhold.egress.tasks import Pending

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandhold.egress.reactor import Reactor

T = TypeVar("T")

THREADS_MAX: Final = 8  # blocking calls at the same time; more wait their turn, and their deadline runs meanwhile


class Threads:
    """Threads that are started when they are first needed, and end with the process at the latest."""

    def __init__(self, reactor: Reactor, threads_max: int = THREADS_MAX) -> None:
        self._reactor = reactor
        self._threads_max = threads_max
        self._jobs: queue.SimpleQueue[Callable[[], Callable[[], None]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._open = 0

    async def run(self, function: Callable[..., T], *args: Any, deadline: float) -> T:
        """Run a function on a thread; at the deadline its result is abandoned.

        Raises:
            TimeoutError: at the deadline, also when no thread was free until then.
            Exception: whatever the function raises.
        """
        is_abandoned = False
        outcome = self.start(function, *args, is_wanted=lambda: not is_abandoned)
        try:
            return await outcome.wait(deadline)
        finally:
            is_abandoned = True

    def start(self, function: Callable[..., T], *args: Any, is_wanted: Callable[[], bool] = lambda: True) -> Pending[T]:
        """Have a function run on a thread, unless nobody wants it any more when its turn comes."""
        outcome: Pending[T] = Pending(self._reactor)

        def job() -> Callable[[], None]:
            if not is_wanted():
                return _nothing
            try:
                value = function(*args)
            except Exception as error:  # noqa: BLE001  carried to the task that asked
                failure = error
                return lambda: outcome.fail(failure)
            return lambda: outcome.resolve(value)

        self._start_one_more()
        self._jobs.put(job)
        return outcome

    def close(self) -> None:
        """Let each thread end after what it is doing."""
        for _ in self._threads:
            self._jobs.put(None)

    def _start_one_more(self) -> None:
        self._open += 1
        if self._open > len(self._threads) and len(self._threads) < self._threads_max:
            thread = threading.Thread(target=self._work, name=f"blocking-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._reactor.post(functools.partial(self._finish, job()))

    def _finish(self, deliver: Callable[[], None]) -> None:
        self._open -= 1
        deliver()


def _nothing() -> None:
    """Deliver nothing: nobody waits any more."""
