"""The one module that knows the event loop: coroutines over level-triggered epoll(7), deadlines, helper threads.

1. A file descriptor is registered once; its mask changes only when readiness comes that nobody waits for.
2. Every wait has a deadline, in absolute seconds of `Reactor.clock()`; one heap entry a task keeps it.
3. A task starts running inside `spawn`: what it was given is its own from then on, closed by its own `finally`.
4. A preferred descriptor, and what threads post, is served every `SLICE_S`, however busy a sandbox keeps the others:
   these are in an epoll of their own as well, which is asked while there is something left of the other's answer.
5. Spurious wake-ups are allowed: whoever waits for readiness tries its system call again.
6. What is served without a task comes after everything else, for `BULK_SLICE_S` at a time, and what has much to do
   after that: a new connection takes half a dozen turns of the loop, and must not wait for every open one in each.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
import traceback
import types
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sandhold.egress.bulk import BULK_SLICE_S, READABLE, WRITABLE, Bulk
from sandhold.egress.slot import Slot
from sandhold.egress.tasks import NEVER, Cancelled, Pending, Task
from sandhold.egress.threads import Threads
from sandhold.egress.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from sandhold.egress.bulk import Served

__all__ = ["NEVER", "READABLE", "WRITABLE", "Cancelled", "Pending", "Reactor", "Task"]

T = TypeVar("T")

EVENTS_MAX: Final = 256  # readiness taken from the kernel at once; more would make a new connection wait for old ones
SLICE_S: Final = 0.05  # of serving others before the preferred are looked at: a policy is to hold within a second
PREFERRED_MAX: Final = 8  # the doorbell, the link, and some room
SHUTDOWN_TURNS_MAX: Final = 64  # rounds of cancelling before a task that refuses to end is left behind

_READ: Final = READABLE
_WRITE: Final = WRITABLE
_BROKEN: Final = select.EPOLLHUP | select.EPOLLERR


class Reactor:
    """The event loop of one thread.

    A wait is a generator that gives way itself: every coroutine around it costs its share each time it is resumed.
    """

    clock = staticmethod(time.monotonic)
    """Monotonic seconds; every deadline is a value of this clock."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._preferred_epoll = select.epoll()
        self._preferred: set[int] = set()
        self._left: deque[tuple[int, int]] = deque()
        self._polled_in = 0
        self._slots: dict[int, Slot] = {}
        self._due: deque[Slot] = deque()
        self._bulk = Bulk()
        self._epoll.register(self._bulk, _READ)
        self._bulk_fd = self._bulk.fileno()
        self._tasks: set[Task] = set()
        self._timers = Timers()
        self._ready: deque[Task] = deque()
        self._posted: deque[Callable[[], None]] = deque()
        self._turn = 0
        self._current: Task | None = None
        self._doorbell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._preferred.add(self._doorbell)
        for epoll in (self._epoll, self._preferred_epoll):
            epoll.register(
                self._doorbell, _READ | select.EPOLLET
            )  # each ring is an event: none is taken back by a read
        self._is_ringing = False
        self._bell_lock = threading.Lock()
        self._threads = Threads(self)

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> Task:
        """Start a coroutine at once, up to its first wait."""
        task = Task(self, coroutine, name)
        self._tasks.add(task)
        self._resume(task, None)
        return task

    @types.coroutine
    def readable(self, fd: int, deadline: float) -> Generator[None, None, None]:
        """Wait until the descriptor can be read (or is broken).

        Raises:
            TimeoutError: at the deadline.
            ConnectionAbortedError: when the descriptor is given up with `forget` meanwhile.
        """
        slot = self._slots.get(fd) or self._enter(fd)
        assert slot.reader is None, "two tasks read one descriptor"
        task = self.begin_wait(deadline)
        if not slot.mask & _READ:
            self._arm(fd, slot, slot.mask | _READ)
        slot.reader = task
        try:
            yield
        finally:
            slot.reader = None
        if slot.mask < 0:
            raise ConnectionAbortedError("closed on our side")

    @types.coroutine
    def writable(self, fd: int, deadline: float) -> Generator[None, None, None]:
        """Wait until the descriptor can be written (or is broken); raises as `readable` does."""
        slot = self._slots.get(fd) or self._enter(fd)
        assert slot.writer is None, "two tasks write one descriptor"
        task = self.begin_wait(deadline)
        if not slot.mask & _WRITE:
            self._arm(fd, slot, slot.mask | _WRITE)
        slot.writer = task
        try:
            yield
        finally:
            slot.writer = None
        if slot.mask < 0:
            raise ConnectionAbortedError("closed on our side")

    def prefer(self, fd: int) -> None:
        """Serve a descriptor before all others (rule 4); before it is waited for first, until it is forgotten."""
        assert fd not in self._slots
        self._preferred.add(fd)

    def serve(self, fd: int, served: Served, before: int, events: int) -> None:
        """Have `served` called for these events of a descriptor, and no more for those `before` (rule 6); 0 is none.

        A task may wait for the same descriptor meanwhile, for what `served` is not called for.
        """
        slot = self._slots.get(fd)
        if served.is_heavy:
            self._bulk.serve(fd, served, before, events)
            if slot is not None and slot.reader is None and slot.writer is None:
                self._forget_slot(fd)
        elif slot is not None or events:
            slot = slot or self._enter(fd)
            slot.served, slot.events = served, events
            if events & ~slot.mask:
                self._arm(fd, slot, slot.mask | events)

    def forget(self, fd: int) -> None:
        """Drop a descriptor, before it is closed; tasks that wait for it get `ConnectionAbortedError`."""
        self._bulk.forget(fd)
        self._forget_slot(fd)

    async def sleep(self, until: float) -> None:
        """Wait for a moment of `clock()`."""
        while self.clock() < until:
            try:
                await self.suspend(until)
            except TimeoutError:
                return

    async def in_thread(self, function: Callable[..., T], *args: Any, deadline: float) -> T:
        """Run a blocking function on a helper thread; at the deadline its result is abandoned, not awaited.

        Raises:
            TimeoutError: at the deadline, also when no thread was free until then.
            Exception: whatever the function raises.
        """
        return await self._threads.run(function, *args, deadline=deadline)

    def post(self, function: Callable[[], None]) -> None:
        """Have the loop call a function soon; the one method that other threads may call."""
        self._posted.append(function)
        if self._is_ringing:  # what is posted before that is taken back will be heard
            return
        with self._bell_lock:
            if self._doorbell >= 0:
                self._is_ringing = True
                os.eventfd_write(self._doorbell, 1)

    def current(self) -> Task:
        """The task that is running."""
        assert self._current is not None, "no task is running"
        return self._current

    def begin_wait(self, deadline: float) -> Task:
        """Return the running task, which gives way right after this and is resumed at the deadline at the latest."""
        task = self._current
        assert task is not None, "only a task can wait"
        if task.is_cancelled:
            raise Cancelled
        task.deadline = deadline
        if deadline < task.timer_at:
            self._timers.set(task, deadline)
        return task

    @types.coroutine
    def suspend(self, deadline: float) -> Generator[None, None, None]:
        """Give way until the running task is woken; may return without cause.

        Raises:
            TimeoutError: at the deadline.
        """
        self.begin_wait(deadline)
        yield

    def wake(self, task: Task) -> None:
        """Resume a task in the next turn of the loop."""
        self._ready.append(task)

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run until `main` ends, then end every other task and the helper threads.

        Raises:
            BaseException: what `main` raises.
        """
        outcome: list[BaseException] = []

        async def watched() -> None:
            try:
                await main
            except BaseException as error:  # noqa: BLE001  handed to the caller of `run`
                outcome.append(error)

        try:
            task = self.spawn(watched(), "main")
            while not task.is_done:
                self._turn_once()
            self._end_tasks()
        finally:
            self._close()
        if outcome:
            raise outcome[0]

    def _turn_once(self) -> None:
        self._turn += 1
        if self._left:  # polled for a while ago: what is preferred goes before it
            self._serve_preferred(self._preferred_epoll.poll(0, PREFERRED_MAX))
        else:
            self._poll()
        now = self.clock()
        while self._left:
            fd, events = self._left.popleft()
            self._serve(fd, events, self._polled_in)
            if self.clock() >= now + SLICE_S:
                break
        if self._ready:
            self._resume_ready()
            self._resume_ready()  # whom they woke
        while self._timers.next_at <= now and (task := self._timers.take_due(now)) is not None:
            self._resume(task, TimeoutError())
        if self._due:
            self._serve_due()
        if self._bulk.is_due or self._bulk.has_more:
            self._bulk.serve_some(self.clock)

    def _poll(self) -> None:
        """Take what is ready, and serve what is preferred of that."""
        polled = self._epoll.poll(self._patience(), EVENTS_MAX)
        self._polled_in = self._turn
        due = []
        for event in polled:
            if event[0] in self._preferred:
                due.append(event)
            elif event[0] == self._bulk_fd:
                self._bulk.is_due = True
            else:
                self._left.append(event)
        if due:
            self._serve_preferred(due)

    def _serve_preferred(self, due: list[tuple[int, int]]) -> None:
        for fd, events in due:
            if fd == self._doorbell:
                self._answer_bell()
            else:
                self._serve(fd, events, self._turn)

    def _serve(self, fd: int, events: int, polled_in: int) -> None:
        """Resume who waits for a descriptor that is ready, and have its turn come for what is served without a task."""
        slot = self._slots.get(fd)
        if slot is None or slot.born >= polled_in:  # the number is a new descriptor's, not the event's
            return
        if events & _BROKEN:
            events |= _READ | _WRITE
        idle = events & ~slot.events
        if idle != events:
            if not slot.due:
                self._due.append(slot)
            slot.due |= events & (_READ | _WRITE)
        if events & _READ and slot.reader is not None:
            idle &= ~_READ
            self._resume(slot.reader, None)
        if events & _WRITE and slot.writer is not None:
            idle &= ~_WRITE
            self._resume(slot.writer, None)
        if idle and self._slots.get(fd) is slot and slot.wanted != slot.mask:
            self._arm(fd, slot, slot.wanted)

    def _serve_due(self) -> None:
        """Call what needs no task, for `BULK_SLICE_S`."""
        until = self.clock() + BULK_SLICE_S
        while self._due:
            slot = self._due.popleft()
            events, slot.due = slot.due, 0
            if events & slot.events and slot.served is not None:
                slot.served.ready(events)
                if self.clock() >= until:
                    return

    def _resume_ready(self) -> None:
        for _ in range(len(self._ready)):
            task = self._ready.popleft()
            if not task.is_done:
                self._resume(task, None)

    def _resume(self, task: Task, error: BaseException | None) -> None:
        outer, self._current = self._current, task
        task.deadline = NEVER
        if task.is_cancelled:  # however it was woken: nothing of it may run on, least of all a connect
            error = Cancelled()
        try:
            if error is None:
                task.coroutine.send(None)
            else:
                task.coroutine.throw(error)
        except (StopIteration, Cancelled):
            self._retire(task)
        except Exception:  # noqa: BLE001  a crash ends one task, never the process
            self._retire(task)
            traceback.print_exc(file=sys.stderr)
        finally:
            self._current = outer

    def _retire(self, task: Task) -> None:
        task.finish()
        self._tasks.discard(task)

    def _patience(self) -> float:
        if self._ready or self._due or self._bulk.has_more:
            return 0.0
        at = self._timers.first_at()
        return max(0.0, at - self.clock()) if at < NEVER else -1.0

    def _forget_slot(self, fd: int) -> None:
        slot = self._slots.pop(fd, None)
        if slot is not None:
            self._arm(fd, slot, 0)
            self._preferred.discard(fd)
            slot.mask, slot.events = -1, 0
            if slot.reader is not None:
                self.wake(slot.reader)
            if slot.writer is not None:
                self.wake(slot.writer)

    def _enter(self, fd: int) -> Slot:
        if fd < 0:
            raise ConnectionAbortedError("closed on our side")
        slot = self._slots[fd] = Slot(self._turn)
        return slot

    def _arm(self, fd: int, slot: Slot, mask: int) -> None:
        """Tell the kernel. A mask of 0 leaves: EPOLLHUP and EPOLLERR cannot be masked and would spin (epoll_ctl(2))."""
        for epoll in (self._epoll, self._preferred_epoll) if fd in self._preferred else (self._epoll,):
            if slot.mask == 0:
                if mask:
                    epoll.register(fd, mask)
            elif mask:
                epoll.modify(fd, mask)
            else:
                epoll.unregister(fd)
        slot.mask = mask

    def _answer_bell(self) -> None:
        self._is_ringing = False
        for _ in range(len(self._posted)):
            self._posted.popleft()()

    def _end_tasks(self) -> None:
        for _ in range(SHUTDOWN_TURNS_MAX):
            if not self._tasks:
                return
            for task in tuple(self._tasks):
                task.is_cancelled = True
                self.wake(task)
            self._turn_once()

    def _close(self) -> None:
        self._threads.close()
        self._epoll.close()
        self._preferred_epoll.close()
        self._bulk.close()
        with self._bell_lock:  # a late ring must not reach whatever gets this number next
            os.close(self._doorbell)
            self._doorbell = -1
