"""Events on their way to the trail: durable before they count, in order, none lost."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from sandhold.egress import recording
from sandhold.egress.gateway import RecordUnavailableError
from sandhold.egress.reactor import Reactor
from sandhold.egress.recording import Recorder
from sandhold.model.event import Closed, Dropped, Why
from tests.simulators import TrailSimulator, new_event_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandhold.model.event import Event

LONG_S = 20.0


def end(detail: str) -> Event:
    """An event that can be told from others."""
    return Closed(new_event_id(), None, 0, 0, 0.0, Why.DONE, detail)


def details(trail: TrailSimulator) -> list[str | None]:
    """What is on record, in order."""
    return [event.detail if isinstance(event, Closed) else type(event).__name__ for event in trail.events]


def run(trail: TrailSimulator, main: Callable[[Reactor, Recorder], Awaitable[None]]) -> None:
    """Run with a recorder on that trail."""
    reactor = Reactor()
    recorder = Recorder(reactor, trail.append, new_event_id, time.time)

    async def body() -> None:
        await main(reactor, recorder)

    try:
        reactor.run(body())
    finally:
        recorder.stop()


def test_a_record_is_durable_when_it_returns() -> None:
    """`record` returns after the trail has the events, all that were given together."""
    trail = TrailSimulator()

    async def main(_: Reactor, recorder: Recorder) -> None:
        await recorder.record(end("a"), end("b"))
        assert details(trail) == ["a", "b"]

    run(trail, main)


def test_records_wait_together() -> None:
    """Whatever waits while the disk is busy goes into one write."""
    trail = TrailSimulator()
    writes: list[int] = []
    is_free = threading.Event()

    async def main(reactor: Reactor, recorder: Recorder) -> None:
        async def one(detail: str) -> None:
            await recorder.record(end(detail))

        tasks = [reactor.spawn(one(str(number)), "record") for number in range(100)]
        is_free.set()
        for task in tasks:
            await task.join(reactor.clock() + LONG_S)

    original = trail.append

    def append(events: object) -> None:
        is_free.wait(LONG_S)
        original(events)  # type: ignore[arg-type]  # handed through
        writes.append(len(trail.events))

    trail.append = append  # type: ignore[method-assign]  # a busy disk in front of it
    run(trail, main)
    assert sorted(int(detail or "") for detail in details(trail)) == list(range(100))
    assert len(writes) < 10


def test_a_failed_write_tells_its_waiters_and_keeps_its_notes() -> None:
    """A full disk fails the record, keeps the note, and writes it before anything newer."""
    trail = TrailSimulator()

    async def main(reactor: Reactor, recorder: Recorder) -> None:
        trail.is_full = True
        recorder.note(end("note"))
        with pytest.raises(RecordUnavailableError):
            await recorder.record(end("lost"))
        with pytest.raises(OSError, match="No space left"):
            await recorder.flush(reactor.clock() + LONG_S)
        trail.is_full = False
        await recorder.record(end("newer"))

    run(trail, main)
    assert details(trail) == ["note", "newer"]


def test_notes_are_tried_again_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A note is written when the disk works again, without anything else happening."""
    monkeypatch.setattr(recording, "RETRY_S", 0.01)
    trail = TrailSimulator()

    async def main(reactor: Reactor, recorder: Recorder) -> None:
        trail.is_full = True
        recorder.note(end("note"))
        with pytest.raises(OSError, match="No space left"):
            await recorder.flush(reactor.clock() + LONG_S)
        trail.is_full = False
        assert await reactor.in_thread(trail.wait_for, Closed, deadline=reactor.clock() + LONG_S)

    run(trail, main)


def test_an_error_of_ours_is_no_record(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a write fails with, nobody is told that it worked."""

    class Wrong(TrailSimulator):
        def append(self, events: object) -> None:
            raise ValueError(f"as if {type(events)} were wrong")

    async def main(_: Reactor, recorder: Recorder) -> None:
        with pytest.raises(RecordUnavailableError):
            await recorder.record(end("x"))

    run(Wrong(), main)
    assert "as if" in capsys.readouterr().err


def test_too_many_waiters_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not keep up fails new records at once, and none of those that wait."""
    monkeypatch.setattr(recording, "RECORDS_WAITING_MAX", 2)
    trail = TrailSimulator()
    trail.delay_s = 0.05

    async def main(reactor: Reactor, recorder: Recorder) -> None:
        async def one() -> None:
            await recorder.record(end("waited"))

        tasks = [reactor.spawn(one(), "record") for _ in range(2)]
        with pytest.raises(RecordUnavailableError, match="too many"):
            await recorder.record(end("refused"))
        for task in tasks:
            await task.join(reactor.clock() + LONG_S)

    run(trail, main)
    assert details(trail) == ["waited", "waited"]


def test_waiters_that_gave_up_still_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that hangs, records nobody waits for any more cannot pile up without end."""
    monkeypatch.setattr(recording, "NOTES_WAITING_MAX", 3)
    trail = TrailSimulator()
    trail.is_moving.clear()

    async def main(reactor: Reactor, recorder: Recorder) -> None:
        async def one() -> None:
            await recorder.record(end("given up"))

        for _ in range(6):
            reactor.spawn(one(), "record").cancel()
            await reactor.sleep(reactor.clock() + 0.01)
        with pytest.raises(RecordUnavailableError, match="too many"):
            await recorder.record(end("refused"))
        trail.is_moving.set()

    run(trail, main)


def test_denials_beyond_the_limit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Denials that can neither be written nor kept are one count when the trail works again."""
    monkeypatch.setattr(recording, "NOTES_WAITING_MAX", 3)
    trail = TrailSimulator()

    async def main(reactor: Reactor, recorder: Recorder) -> None:
        trail.is_full = True
        for _ in range(10):
            recorder.note_denial(end("denial"), end("its end"))
        with pytest.raises(OSError, match="No space left"):
            await recorder.flush(reactor.clock() + LONG_S)
        trail.is_full = False
        await recorder.flush(reactor.clock() + LONG_S)
        await recorder.flush(reactor.clock() + LONG_S)

    run(trail, main)
    counted = sum(event.packets for event in trail.events if isinstance(event, Dropped))
    kept = details(trail).count("denial")
    assert details(trail).count("its end") == kept
    assert counted + kept == 10
    assert counted > 0


def test_nobody_waits_behind_notes_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record fails as soon as it is known that nothing can be written, however many notes are in front of it."""
    monkeypatch.setattr(recording, "BATCH_MAX", 2)
    trail = TrailSimulator()

    async def main(_: Reactor, recorder: Recorder) -> None:
        trail.is_full = True
        for number in range(10):
            recorder.note(end(str(number)))
        with pytest.raises(RecordUnavailableError, match="No space left"):
            await recorder.record(end("refused"))
        trail.is_full = False
        await recorder.record(end("last"))

    run(trail, main)
    assert details(trail) == [*map(str, range(10)), "last"]
