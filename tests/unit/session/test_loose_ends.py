"""What a session has to put on record besides: nothing is lost to a full disk, and nobody who knocked is forgotten."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, cast

import pytest

from sandhold.cell.spec import DroppedCount
from sandhold.model.decision import Reason
from sandhold.model.event import Connection, Dropped, GenerationSwitched
from sandhold.model.rule import Generation
from sandhold.session import loose_ends
from sandhold.session.loose_ends import DropCounter, Switches, kept_listeners, unaccepted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandhold.cell.spec import Cell
    from sandhold.model.event import Event
    from sandhold.store.audit import Trail


class Page:
    """A trail of one page that can be full."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.is_full = False

    def append(self, events: Sequence[Event]) -> None:
        """As `Trail.append`."""
        if events and self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.events += events


class Counting:
    """The part of a cell that counts."""

    packets = 0

    def dropped(self) -> tuple[DroppedCount, ...]:
        """As `Cell.dropped`."""
        return (DroppedCount("udp", None, None, self.packets),)


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    """Two listeners that nobody accepts on."""
    made = [socket.create_server(("127.0.0.1", 0), backlog=64) for _ in range(2)]
    yield made
    for each in made:
        each.close()


def test_switches_wait_for_room() -> None:
    """Switches that could not be recorded are, in their order, once there is room; each is noted at once."""
    page, noted = Page(), list[int]()
    switches = Switches(cast("Trail", page), noted.append, lambda _: None)
    page.is_full = True
    switches.record(Generation(1), Generation(2), 0)
    switches.record(Generation(2), Generation(3), 5)
    assert (page.events, noted, switches.retry()) == ([], [2, 3], True)
    page.is_full = False
    switches.record(Generation(3), Generation(4), 0)
    found = [(each.before, each.after, each.cut) for each in page.events if isinstance(each, GenerationSwitched)]
    assert found == [(1, 2, 0), (2, 3, 5), (3, 4, 0)]
    assert switches.retry() is False
    assert len(page.events) == 3


def test_drops_are_counted_once() -> None:
    """Dropped packets are recorded as they grow, and what could not be recorded is counted again."""
    page, cell = Page(), Counting()
    drops = DropCounter(cast("Cell", cell), cast("Trail", page), lambda _: None)
    cell.packets = 3
    assert drops.record() is True
    page.is_full, cell.packets = True, 7
    assert drops.record() is True
    page.is_full = False
    assert drops.record() is True
    assert drops.record() is False
    assert [each.packets for each in page.events if isinstance(each, Dropped)] == [3, 4]


def test_drops_without_end_do_not_fill_the_trail() -> None:
    """Whoever sends to thousands of places again and again gets a record for each once, then one for all of it; the sum
    is exact."""
    page, rounds, places = Page(), 200, 4096
    now = 0.0

    class Flooded:
        packets = 0

        def dropped(self) -> tuple[DroppedCount, ...]:
            return tuple(DroppedCount("udp", None, port, self.packets) for port in range(places))

    cell = Flooded()
    drops = DropCounter(cast("Cell", cell), cast("Trail", page), lambda _: None, lambda: now)
    for number in range(1, rounds + 1):
        cell.packets, now = 10 * number, 5.0 * number
        assert drops.record() is True
    found = [each for each in page.events if isinstance(each, Dropped)]
    assert sum(each.packets for each in found) == 10 * rounds * places
    assert len([each for each in found if each.protocol == "udp"]) <= places + 5 * rounds * loose_ends.DROPS_RATE
    assert len([each for each in found if each.protocol == loose_ends.SEVERAL]) == rounds - 1


def test_everybody_who_waits_is_denied(listeners: list[socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that nobody accepted are denied with a record each, beyond the limit with one count for all; also
    those whose client is gone by then, and after the cell closed its own sockets."""
    clients = [socket.create_connection(each.getsockname()) for each in listeners for _ in range(5)]
    for client in clients[::3]:
        client.close()
    kept = kept_listeners(listeners)
    for each in listeners:
        each.close()
    monkeypatch.setattr(loose_ends, "UNACCEPTED_MAX", 7)
    *denials, rest = unaccepted(kept, Generation(3))
    for client in clients:
        client.close()
    assert {(type(each), each.decision.reason) for each in denials if isinstance(each, Connection)} == {
        (Connection, Reason.SESSION_ENDED)
    }
    assert isinstance(rest, Dropped)
    assert (len(denials), rest.packets) == (7, 3)
    assert all(each.fileno() < 0 for each in kept)


def test_nobody_waits(listeners: list[socket.socket]) -> None:
    """Where nobody waits there is nothing to record."""
    assert unaccepted(kept_listeners(listeners), Generation(1)) == []
