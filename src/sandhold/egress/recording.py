"""Events on their way to the audit trail: one writer, group commit, nothing lost and nothing out of order.

1. `record` returns when the trail says the event is durable, and raises otherwise; the caller then denies.
2. `note` never fails and never waits: what it queues is written in order, before anything queued later, with the next
   decision or after `NOTES_DELAY_S` (each write costs the disk a sync). A process that is killed meanwhile leaves a
   connection without its end, which whoever comes next records as lost.
3. A batch that cannot be written tells its waiters so; its notes stay at the head of the queue and are tried again.
4. More waiters than `RECORDS_WAITING_MAX` are turned away at once, and so is everybody while `NOTES_WAITING_MAX`
   entries are queued, also those whose waiter has given up: a slow disk must not eat the memory.
5. A denial that is only noted (because it could not be recorded) is counted instead when `NOTES_WAITING_MAX` are
   waiting; the count is written as one `Dropped` event when the trail works again.
6. A flood of denials is folded into counts (`folding.py`); who waits for one waits for the record that counts it.
7. A session may write `TRAIL_BYTES_MAX` into its trail. Beyond that `is_spent()`, and everything is denied and counted.
"""

from __future__ import annotations

import sys
import traceback
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sandhold.egress.folding import GROUPS_MAX, SPENT_PAUSE_S, Folding, pause_s
from sandhold.egress.gateway import RecordUnavailableError
from sandhold.egress.reactor import NEVER, Pending
from sandhold.egress.threads import Threads
from sandhold.model.event import Dropped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandhold.egress.folding import Counted
    from sandhold.egress.reactor import Reactor
    from sandhold.model.event import Event, EventId

RECORDS_WAITING_MAX: Final = 4096  # one decision each for every connection a sandbox may have
NOTES_WAITING_MAX: Final = 16384  # ends and answers of those, and of the connections before them
BATCH_MAX: Final = 1024  # events in one write: a few hundred KiB
NOTES_DELAY_S: Final = 0.1  # an end that is on record so late is not missed; ten writes a second are not felt
RETRY_S: Final = 1.0  # between two attempts on a trail that cannot be written
RECORD_TIMEOUT_S: Final = 10.0  # a disk that takes longer is as good as none
TRAIL_BYTES_MAX: Final = 1 << 30  # of one session: a million connections; an hour of the worst flood, weeks of work


@dataclass(slots=True, eq=False)
class _Entry:
    """Events that are written together; `waiter` is None for notes. `counted` is the denial that they are written as a
    part of instead."""

    events: tuple[Event, ...]
    waiter: Pending[None] | None
    counted: Counted | None = None


class Recorder:
    """The queue to the trail and the task that empties it.

    `append` is durable when it returns, or raises OSError; it is called on a thread of its own, one call at a time.
    """

    def __init__(
        self,
        reactor: Reactor,
        append: Callable[[Sequence[Event]], None],
        new_event: Callable[[], EventId],
        now: Callable[[], float],
        written: Callable[[], int] = lambda: 0,
    ) -> None:
        self._reactor = reactor
        self._append = append
        self._new_event = new_event
        self._now = now
        self._written = written
        self._folding = Folding(reactor.clock)
        self._counting: list[_Entry] = []
        self._count_at = 0.0
        self._counts = 0
        self._entries: deque[_Entry] = deque()
        self._is_urgent = False
        self._oldest_at = 0.0
        self._waiting = 0
        self._dropped = 0
        self._is_stopping = False
        self._is_idle = False
        self._thread = Threads(reactor, threads_max=1)
        self._task = reactor.spawn(self._write(), "recorder")

    def is_spent(self) -> bool:
        """Whether the session has written as much as it may (rule 7)."""
        return self._written() >= TRAIL_BYTES_MAX

    async def record(self, *events: Event) -> EventId | None:
        """Put events on durable record, all or none; returns the event of the record that counts the last of them, None
        when it has one of its own.

        Raises:
            RecordUnavailableError: when they are not (known to be) durable.
        """
        if self._waiting >= RECORDS_WAITING_MAX or self._queued() >= NOTES_WAITING_MAX:
            raise RecordUnavailableError("too many records are waiting")
        waiter: Pending[None] = Pending(self._reactor)
        self._waiting += 1
        try:
            self._put(_Entry(events, waiter))
            await waiter.wait(self._reactor.clock() + RECORD_TIMEOUT_S)
        except OSError as error:
            raise RecordUnavailableError(str(error) or "the trail does not answer") from error
        finally:
            self._waiting -= 1
        return self._folding.counted_as(events[-1].event)

    def note(self, event: Event) -> None:
        """Queue an event that follows from one already on record."""
        self._put(_Entry((event,), None))

    def note_denial(self, *events: Event) -> None:
        """Queue the events of one denial that is not on record, or only count it when the queue is full (rule 5)."""
        if self._queued() >= NOTES_WAITING_MAX:
            self._dropped += 1
        else:
            self._put(_Entry(events, None))

    async def flush(self, deadline: float) -> None:
        """Wait until everything queued so far is durable.

        Raises:
            TimeoutError: at the deadline.
            OSError: when it could not be written now; it stays queued.
        """
        waiter: Pending[None] = Pending(self._reactor)
        self._put(_Entry((), waiter))
        await waiter.wait(deadline)

    async def watch(self) -> None:
        """Wait for the end of the task that writes, which is a crash of it whenever somebody is waiting.

        Raises:
            RuntimeError: then.
        """
        await self._task.join(NEVER)
        raise RuntimeError("the recorder has ended")

    def stop(self) -> None:
        """Have the thread write what is still queued, once, and end; call when the loop has ended, after `flush`."""
        self._is_stopping = True
        if self._queued():
            self._thread.start(self._write_rest)
        self._thread.close()

    def _queued(self) -> int:
        return len(self._entries) + len(self._counting)

    def _put(self, entry: _Entry) -> None:
        is_first = not self._entries
        self._entries.append(entry)
        if is_first:
            self._oldest_at = self._reactor.clock()
        if entry.waiter is not None:
            self._is_urgent = True
        if self._is_idle and (is_first or entry.waiter is not None or len(self._entries) == BATCH_MAX):
            self._is_idle = False
            self._reactor.wake(self._task)  # in the next turn: what comes in this one goes into the same write

    async def _write(self) -> None:
        while True:
            while not self._is_due():
                await self._rest(self._due_at())
            batch = self._sift(self._take())
            failure = await self._attempt(batch)
            if failure is None:
                self._put_count()
            else:
                batch += self._keep_notes(batch)
            _tell(batch, failure)
            if failure is not None and all(entry.waiter is None for entry in self._entries):
                await self._rest(self._reactor.clock() + RETRY_S)

    async def _rest(self, until: float) -> None:
        """Wait for news, until a moment at most."""
        self._is_idle = True
        try:
            await self._reactor.suspend(until)
        except TimeoutError:
            return
        finally:
            self._is_idle = False

    def _write_rest(self) -> None:
        while self._queued():
            events, counts = self._events_of(self._sift(self._take()))
            if self._append_all(events + counts) is not None:
                return

    def _take(self) -> list[_Entry]:
        batch = [self._entries.popleft() for _ in range(min(len(self._entries), BATCH_MAX))]
        self._is_urgent = any(entry.waiter is not None for entry in self._entries)
        return batch

    def _is_due(self) -> bool:
        """Whether to write now: for a decision at once, for notes alone when they have waited (rule 2)."""
        if self._is_urgent or len(self._entries) >= BATCH_MAX:
            return True
        return self._reactor.clock() >= self._due_at()

    def _due_at(self) -> float:
        """When what is queued has waited long enough; never without anything to write."""
        notes_at = self._oldest_at + NOTES_DELAY_S if self._entries else NEVER
        return min(notes_at, self._count_at) if self._counting else notes_at

    def _sift(self, taken: list[_Entry]) -> list[_Entry]:
        """Take out what is counted (rule 6), and add what was taken out before once its count is due."""
        is_spent = self.is_spent()
        batch = []
        for entry in taken:
            events, counted = self._folding.sift(entry.events, self._now(), is_spent=is_spent)
            if counted is not None:
                self._counting.append(_Entry(entry.events, entry.waiter, counted))
            elif events is entry.events:
                batch.append(entry)
            elif events or entry.waiter is not None:
                batch.append(_Entry(events, entry.waiter))
        is_flush = any(entry.waiter is not None and not entry.events for entry in taken)
        if self._counting and (is_flush or self._is_stopping or self._reactor.clock() >= self._count_at):
            batch += self._counting
            self._counting = []
            self._count_at = self._reactor.clock() + max(pause_s(self._counts), SPENT_PAUSE_S if is_spent else 0.0)
        return batch

    async def _attempt(self, batch: list[_Entry]) -> str | None:
        """Write a batch on the thread; returns why it is not on record, None when it is."""
        events, counts = self._events_of(batch)
        failure = await self._thread.start(self._append_all, events + counts).wait(NEVER)
        if failure is None:
            self._counts += len(counts)
        return failure

    def _events_of(self, batch: list[_Entry]) -> tuple[list[Event], list[Event]]:
        """Return what is written as it is, and the counts of what is not."""
        events = [event for entry in batch if entry.counted is None for event in entry.events]
        counted = [entry.counted for entry in batch if entry.counted is not None]
        return events, self._folding.fold(counted, 1 if self.is_spent() else GROUPS_MAX, self._new_event)

    def _append_all(self, events: Sequence[Event]) -> str | None:
        try:
            if events:
                self._append(events)
        except OSError as error:
            return str(error) or type(error).__name__
        except Exception as error:  # noqa: BLE001  whatever it is, nobody may believe that the batch is on record
            traceback.print_exc(file=sys.stderr)
            return type(error).__name__
        return None

    def _put_count(self) -> None:
        """Rule 5: now that the trail works, say how many denials are missing from it."""
        if self._dropped:
            self._put(_Entry((Dropped(self._new_event(), "tcp", None, None, self._dropped),), None))
            self._dropped = 0

    def _keep_notes(self, batch: list[_Entry]) -> list[_Entry]:
        """Put the notes of a failed batch back; returns who else waits, to be told that nothing can be written now."""
        others = [entry for entry in self._entries if entry.waiter is not None]
        notes = [replace(entry, counted=None) for entry in (*batch, *self._entries) if entry.waiter is None]
        self._entries = deque(notes)
        self._is_urgent = False
        return others


def _tell(batch: list[_Entry], failure: str | None) -> None:
    for entry in batch:
        if entry.waiter is None:
            continue
        if failure is None:
            entry.waiter.resolve(None)
        else:
            entry.waiter.fail(OSError(failure))
