"""What a session still has to put on record besides what it is told: drops, switches of the policy, connections that
nobody accepted. What cannot be recorded now is tried again; nothing of it is lost while the session lives.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

from sandhold.egress.token_bucket import TokenBucket
from sandhold.linux.netns import original_destination
from sandhold.model.decision import Decision, Reason
from sandhold.model.event import Connection, Dropped, GenerationSwitched, Via
from sandhold.model.rule import Effect
from sandhold.session.circumstances import CLOCK
from sandhold.store.event_ids import new_event_id

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

    from sandhold.cell.spec import Cell, DroppedCount
    from sandhold.model.event import Event
    from sandhold.model.rule import Generation
    from sandhold.store.audit import Trail

UNACCEPTED_MAX: Final = (
    4096  # with a record each; more than a listener's queue holds (listen(2), `somaxconn`) are counted
)
DROPS_BURST: Final = 4096  # with a record each: as many destinations as a cell tells apart
DROPS_RATE: Final = 0.5  # a second from then on: a dozen megabytes a day
SEVERAL: Final = "several"  # in the place of a protocol


class DropCounter:
    """Puts on record what the cell dropped since the last time.

    Each destination has a record of its own while a bucket has tokens; what comes beyond that is one record for all of
    it, so that whoever sends without end, to ever the same thousands of places, does not fill the disk.
    """

    def __init__(
        self, cell: Cell, trail: Trail, log: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cell = cell
        self._trail = trail
        self._log = log
        self._seen: dict[tuple[str, object, int | None], int] = {}
        self._bucket = TokenBucket(DROPS_RATE, DROPS_BURST, clock)

    def record(self) -> bool:
        """Count and record; whether there was anything new. What cannot be recorded now is counted again."""
        try:
            fresh = [(count, new) for count in self._cell.dropped() if (new := self._new(count)) > 0]
            self._trail.append(self._events(fresh))
        except OSError as error:
            self._log(f"dropped packets could not be recorded: {error}")
            return True
        self._seen.update({(count.protocol, count.address, count.port): count.packets for count, _ in fresh})
        return bool(fresh)

    def _events(self, fresh: Sequence[tuple[DroppedCount, int]]) -> list[Event]:
        events: list[Event] = []
        more = 0
        for count, new in fresh:
            if self._bucket.take():
                events.append(Dropped(new_event_id(CLOCK.now()), count.protocol, count.address, count.port, new))
            else:
                more += new
        if more:
            events.append(Dropped(new_event_id(CLOCK.now()), SEVERAL, None, None, more))
        return events

    def _new(self, count: DroppedCount) -> int:
        return count.packets - self._seen.get((count.protocol, count.address, count.port), 0)


class Switches:
    """Puts on record which generations of the policy egress took over, in their order.

    A full disk does not undo a switch and does not end the session: egress writes each decision with its generation,
    and refuses what it cannot record. The record of the switch follows once there is room. `noted` is told of each.
    """

    def __init__(self, trail: Trail, noted: Callable[[Generation], None], log: Callable[[str], None]) -> None:
        self._trail = trail
        self._noted = noted
        self._log = log
        self._waiting: list[Event] = []

    def record(self, before: Generation, after: Generation, cut: int) -> None:
        """Record a switch, behind those that still wait."""
        self._waiting.append(GenerationSwitched(new_event_id(CLOCK.now()), before, after, cut))
        self.retry()
        self._noted(after)

    def retry(self) -> bool:
        """Record what waits; whether anything did."""
        had_any = bool(self._waiting)
        try:
            self._trail.append(self._waiting)
        except OSError as error:
            self._log(f"a switch of the policy's generation could not be recorded yet: {error}")
        else:
            self._waiting = []
        return had_any


def kept_listeners(listeners: Sequence[socket.socket]) -> list[socket.socket]:
    """Return the cell's listening sockets as our own: connections wait in them also when the cell is gone."""
    return [listener.dup() for listener in listeners]


def unaccepted(listeners: Sequence[socket.socket], generation: Generation) -> list[Event]:
    """Return the denials of connections that were made and that egress, stopped or gone, never accepted; closes them.

    Nothing can connect any more when this is called. No byte of theirs left.
    """
    decision = Decision(Effect.DENY, Reason.SESSION_ENDED, None, generation)
    denials: list[Event] = []
    more = 0
    for listener in listeners:
        with listener:
            for sock in _waiting_in(listener):
                with sock:
                    if len(denials) < UNACCEPTED_MAX:
                        denials.append(_denied(sock, decision))
                    else:
                        more += 1
    if more:
        denials.append(Dropped(new_event_id(CLOCK.now()), "tcp", None, None, more))
    return denials


def _waiting_in(listener: socket.socket) -> Iterator[socket.socket]:
    listener.settimeout(0)
    while True:
        try:
            sock, _ = listener.accept()
        except ConnectionError:
            continue  # its client reset it meanwhile
        except OSError:
            return  # nobody waits, or nothing can be accepted any more
        yield sock


def _denied(sock: socket.socket, decision: Decision) -> Connection:
    original = None
    with contextlib.suppress(OSError):
        original = original_destination(sock)
    return Connection(new_event_id(CLOCK.now()), Via.TRANSPARENT, None, (), original, decision)
