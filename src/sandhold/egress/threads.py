"""A few threads for calls that block, such as name look-ups; their results come back to the reactor.

One thread makes the calls in their order, as long as each is quick: threads that wake together only wait for one
another at the interpreter's lock. A call whose turn has not come after `TURN_S` wakes another thread.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import queue
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sandhold.egress.tasks import Pending

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandhold.egress.reactor import Reactor

T = TypeVar("T")

THREADS_MAX: Final = 8  # blocking calls at the same time; more wait their turn, and their deadline runs meanwhile
TURN_S: Final = 0.002  # before a call that waits for its turn gets a thread more; most look-ups take a tenth of it

_WAKE: Final = 1
_END: Final = 0


class Threads:
    """Threads that are started when they are first needed, and end with the process at the latest."""

    def __init__(self, reactor: Reactor, threads_max: int = THREADS_MAX) -> None:
        self._reactor = reactor
        self._threads_max = threads_max
        self._lock = threading.Lock()
        self._jobs: deque[_Job] = deque()
        self._wakes: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._started = 0
        self._awake = 0

    async def run(self, function: Callable[..., T], *args: Any, deadline: float) -> T:
        """Run a function on a thread; at the deadline its result is abandoned.

        Raises:
            TimeoutError: at the deadline, also when no thread was free until then.
            OSError: when there is no thread and none can be started.
            Exception: whatever the function raises.
        """
        outcome: Pending[T] = Pending(self._reactor)
        job = self._enter(outcome, functools.partial(function, *args))
        turn_at = self._reactor.clock() + TURN_S
        try:
            if turn_at < deadline:
                with contextlib.suppress(TimeoutError):
                    return await outcome.wait(turn_at)
                if not job.has_begun:
                    self._wake_one_more()
            return await outcome.wait(deadline)
        finally:
            job.is_abandoned = True

    def start(self, function: Callable[..., T], *args: Any) -> Pending[T]:
        """Have a function run on a thread, whether or not anybody waits for its outcome; raises OSError as `run`."""
        outcome: Pending[T] = Pending(self._reactor)
        self._enter(outcome, functools.partial(function, *args))
        return outcome

    def close(self) -> None:
        """Let each thread end after what it is doing and what is queued."""
        for _ in range(self._started):
            self._wakes.put(_END)

    def _enter(self, outcome: Pending[Any], call: Callable[[], Any]) -> _Job:
        job = _Job(outcome, call)
        with self._lock:
            self._jobs.append(job)
            is_anybody_awake = self._awake > 0
        if not is_anybody_awake and not self._wake_one_more():
            with self._lock:
                self._jobs.remove(job)
            raise OSError(errno.EAGAIN, "no thread can be started")
        return job

    def _wake_one_more(self) -> bool:
        """Have one thread more at work on what is queued; False when nobody is and no thread can be started."""
        with self._lock:
            if not self._jobs or self._awake >= self._threads_max:
                return True
            self._awake += 1
            is_one_missing = self._started < self._awake
        if is_one_missing and not self._start_one():
            with self._lock:
                if self._awake > 1 or not self._started:  # who is awake comes to it; or there is nobody
                    self._awake -= 1
                    return self._awake > 0
        self._wakes.put(_WAKE)
        return True

    def _start_one(self) -> bool:
        try:
            threading.Thread(target=self._work, name=f"blocking-{self._started + 1}", daemon=True).start()
        except RuntimeError:  # pthread_create(3): EAGAIN, the user has as many processes as may be
            return False
        self._started += 1
        return True

    def _work(self) -> None:
        while self._wakes.get() == _WAKE:
            while (job := self._next()) is not None:
                job.run(self._reactor)

    def _next(self) -> _Job | None:
        with self._lock:
            if self._jobs:
                return self._jobs.popleft()
            self._awake -= 1
            return None


class _Job:
    """One call whose turn comes; nobody may want it any more by then."""

    __slots__ = ("_call", "_outcome", "has_begun", "is_abandoned")

    def __init__(self, outcome: Pending[Any], call: Callable[[], Any]) -> None:
        self._outcome = outcome
        self._call = call
        self.has_begun = False
        self.is_abandoned = False

    def run(self, reactor: Reactor) -> None:
        """Make the call, on a thread, and deliver what comes of it in the loop."""
        self.has_begun = True
        if self.is_abandoned:
            return
        try:
            value = self._call()
        except Exception as error:  # noqa: BLE001  carried to the task that asked
            reactor.post(functools.partial(self._outcome.fail, error))
        else:
            reactor.post(functools.partial(self._outcome.resolve, value))
