"""Blocking calls on threads: one thread for what is quick, more for what is stuck."""

from __future__ import annotations

import threading

import pytest

from sandhold.egress import threads
from sandhold.egress.reactor import Reactor
from sandhold.egress.threads import THREADS_MAX, Threads

LONG_S = 20.0


def test_calls_share_a_thread_while_their_turns_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that do not have to wait for their turn are made by one thread, in their order."""
    monkeypatch.setattr(threads, "TURN_S", LONG_S)
    reactor = Reactor()
    made: list[tuple[int, int]] = []

    async def main() -> None:
        async def one(number: int) -> None:
            deadline = reactor.clock() + 2 * LONG_S
            await reactor.in_thread(lambda: made.append((threading.get_ident(), number)), deadline=deadline)

        tasks = [reactor.spawn(one(number), "one") for number in range(50)]
        for task in tasks:
            await task.join(reactor.clock() + LONG_S)

    reactor.run(main())
    assert [number for _, number in made] == list(range(50))
    assert len({ident for ident, _ in made}) == 1


def test_a_call_does_not_wait_for_those_that_are_stuck() -> None:
    """While a thread is left, a call is made however long the ones before it take."""
    reactor = Reactor()
    released = threading.Event()

    async def main() -> None:
        async def stuck() -> None:
            assert await reactor.in_thread(released.wait, LONG_S, deadline=reactor.clock() + LONG_S)

        tasks = [reactor.spawn(stuck(), "stuck") for _ in range(THREADS_MAX - 1)]
        await reactor.in_thread(released.set, deadline=reactor.clock() + LONG_S)
        for task in tasks:
            await task.join(reactor.clock() + LONG_S)

    reactor.run(main())
    assert released.is_set()


def test_what_was_started_is_done_though_nobody_waits() -> None:
    """`start` makes its call also when the loop is over, before the threads end."""
    reactor = Reactor()
    own = Threads(reactor, threads_max=1)
    is_done = threading.Event()

    async def main() -> None:
        own.start(is_done.set)
        own.close()

    reactor.run(main())
    assert is_done.wait(LONG_S)


def test_a_host_without_room_for_threads_costs_the_calls_of_that_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls for which no thread can be started fail at once and are never made; those that come later are made."""
    reactor = Reactor()
    made: list[str] = []

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with monkeypatch.context() as full:
            full.setattr(threading.Thread, "start", refuse)
            for _ in range(THREADS_MAX + 1):
                with pytest.raises(OSError, match="no thread can be started"):
                    await reactor.in_thread(made.append, "too early", deadline=reactor.clock() + LONG_S)
        await reactor.in_thread(made.append, "in time", deadline=reactor.clock() + LONG_S)

    reactor.run(main())
    assert made == ["in time"]


def test_a_thread_that_cannot_be_added_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one thread is at work and no other can be started, a call waits for its turn; later, others can be."""
    reactor = Reactor()
    released = threading.Event()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        async def stuck() -> None:
            assert await reactor.in_thread(released.wait, LONG_S, deadline=reactor.clock() + LONG_S)

        first = reactor.spawn(stuck(), "stuck")
        with monkeypatch.context() as full:
            full.setattr(threading.Thread, "start", refuse)
            for _ in range(THREADS_MAX + 1):
                with pytest.raises(TimeoutError):
                    await reactor.in_thread(released.set, deadline=reactor.clock() + 2 * threads.TURN_S)
        assert not released.is_set()
        await reactor.in_thread(released.set, deadline=reactor.clock() + LONG_S)
        await first.join(reactor.clock() + LONG_S)

    reactor.run(main())
    assert released.is_set()
