"""The event loop: readiness, deadlines, cancelling, threads, and what must not spin or leak."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from sandhold.egress.bulk import BULK_SLICE_S
from sandhold.egress.reactor import NEVER, READABLE, SLICE_S, WRITABLE, Cancelled, Pending, Reactor
from sandhold.egress.threads import THREADS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG_S = 20.0  # far beyond anything; it only keeps a failing test from hanging


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets that do not block."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0)
        theirs.settimeout(0)
        yield ours, theirs


def test_readable_waits_for_bytes(pair: tuple[socket.socket, socket.socket]) -> None:
    """A wait for reading ends when there is something to read, and not before."""
    ours, theirs = pair
    reactor = Reactor()
    seen: list[bytes] = []

    async def reader() -> None:
        await reactor.readable(ours.fileno(), reactor.clock() + LONG_S)
        seen.append(ours.recv(10))

    async def main() -> None:
        task = reactor.spawn(reader(), "reader")
        assert seen == []
        theirs.send(b"x")
        await task.join(reactor.clock() + LONG_S)

    reactor.run(main())
    assert seen == [b"x"]


class _Busy:
    """Something that is always ready, and takes its time when it is served."""

    def __init__(self, order: list[str], *, is_heavy: bool = False) -> None:
        self._order = order
        self.is_heavy = is_heavy

    def ready(self, _events: int) -> None:
        self._order.append("bulk")
        until = time.monotonic() + 2 * BULK_SLICE_S
        while time.monotonic() < until:
            pass


def test_what_needs_no_task_does_not_hold_up_tasks(pair: tuple[socket.socket, socket.socket]) -> None:
    """Between two steps of a task only one slice of bulk is served, however much of it there is."""
    ours, theirs = pair
    reactor = Reactor()
    order: list[str] = []
    busy = [socket.socketpair() for _ in range(20)]

    async def main() -> None:
        for one, _ in busy:
            reactor.serve(one.fileno(), _Busy(order), 0, WRITABLE)
        for _ in range(10):
            theirs.send(b"x")
            await reactor.readable(ours.fileno(), reactor.clock() + LONG_S)
            ours.recv(10)
            order.append("task")
        for one, _ in busy:
            reactor.forget(one.fileno())

    try:
        reactor.run(main())
    finally:
        for one, other in busy:
            one.close()
            other.close()
    runs = "".join("b" if each == "bulk" else "t" for each in order).split("t")
    assert max(map(len, runs)) <= 2
    assert len(order) > 10


class _Light:
    """Something that has one byte to take."""

    is_heavy = False

    def __init__(self, order: list[str], sock: socket.socket) -> None:
        self._order = order
        self._sock = sock

    def ready(self, _events: int) -> None:
        self._sock.recv(1)
        self._order.append("light")


def test_what_is_light_does_not_wait_for_every_heavy_one(pair: tuple[socket.socket, socket.socket]) -> None:
    """However many downloads have their turn to come, a few bytes of another connection are carried before the next."""
    ours, theirs = pair
    reactor = Reactor()
    order: list[str] = []
    busy = [socket.socketpair() for _ in range(20)]

    async def main() -> None:
        for one, _ in busy:
            reactor.serve(one.fileno(), _Busy(order, is_heavy=True), 0, WRITABLE)
        reactor.serve(ours.fileno(), _Light(order, ours), 0, READABLE)
        deadline = reactor.clock() + LONG_S
        for sent in range(1, 6):
            order.append("sent")
            theirs.send(b"x")
            while order.count("light") < sent and reactor.clock() < deadline:
                await reactor.sleep(reactor.clock() + 0.001)
        for sock in (ours, *(one for one, _ in busy)):
            reactor.forget(sock.fileno())

    try:
        reactor.run(main())
    finally:
        for one, other in busy:
            one.close()
            other.close()
    waits = " ".join(order).split("sent")[1:]
    assert [wait.partition("light")[1] for wait in waits] == ["light"] * 5
    assert max(wait.partition("light")[0].count("bulk") for wait in waits) <= 3
    assert order.count("bulk") >= 5  # and they have their turns as well


def test_what_is_forgotten_is_not_served(pair: tuple[socket.socket, socket.socket]) -> None:
    """After `serve` with no events, and after `forget`, nothing is called any more."""
    ours, theirs = pair
    reactor = Reactor()
    order: list[str] = []
    served = _Busy(order)

    async def main() -> None:
        for is_given_up in (False, True):
            reactor.serve(ours.fileno(), served, 0, WRITABLE)
            if is_given_up:
                reactor.forget(ours.fileno())
            else:
                reactor.serve(ours.fileno(), served, WRITABLE, 0)
            theirs.send(b"x")
            await reactor.readable(ours.fileno(), reactor.clock() + LONG_S)
            ours.recv(10)

    reactor.run(main())
    assert order == []


def test_a_preferred_descriptor_does_not_wait_for_the_busy(pair: tuple[socket.socket, socket.socket]) -> None:
    """However much there is to do for others, what is preferred is served after a slice of it."""
    ours, theirs = pair
    reactor = Reactor()
    reactor.prefer(ours.fileno())
    busy = [socket.socketpair() for _ in range(20)]
    order: list[str] = []

    async def work(sock: socket.socket) -> None:
        await reactor.readable(sock.fileno(), NEVER)
        order.append("busy")
        theirs.send(b"x")
        until = reactor.clock() + SLICE_S
        while reactor.clock() < until:
            continue

    async def listen() -> None:
        await reactor.readable(ours.fileno(), NEVER)
        order.append("preferred")

    async def main() -> None:
        tasks = [reactor.spawn(listen(), "link")]
        for near, far in busy:
            tasks.append(reactor.spawn(work(near), "work"))
            far.send(b"x")
        for task in tasks:
            await task.join(reactor.clock() + LONG_S)

    reactor.run(main())
    for near, far in busy:
        near.close()
        far.close()
    assert order[:2] == ["busy", "preferred"]
    assert order.count("busy") == len(busy)


def test_a_deadline_ends_a_wait(pair: tuple[socket.socket, socket.socket]) -> None:
    """Every wait raises TimeoutError at its deadline, and the next one is not shortened by it."""
    ours, theirs = pair
    reactor = Reactor()

    async def main() -> None:
        start = reactor.clock()
        with pytest.raises(TimeoutError):
            await reactor.readable(ours.fileno(), start + 0.02)
        assert reactor.clock() >= start + 0.02
        theirs.send(b"x")
        await reactor.readable(ours.fileno(), reactor.clock() + LONG_S)

    reactor.run(main())


def test_one_descriptor_has_a_reader_and_a_writer(pair: tuple[socket.socket, socket.socket]) -> None:
    """A task may read what another writes to; each is woken by its own readiness."""
    ours, theirs = pair
    reactor = Reactor()
    order: list[str] = []

    async def wait(what: str) -> None:
        deadline = reactor.clock() + LONG_S
        await (reactor.readable if what == "read" else reactor.writable)(ours.fileno(), deadline)
        order.append(what)

    async def main() -> None:
        tasks = [reactor.spawn(wait("read"), "r"), reactor.spawn(wait("write"), "w")]
        await tasks[1].join(reactor.clock() + LONG_S)
        theirs.send(b"x")
        await tasks[0].join(reactor.clock() + LONG_S)

    reactor.run(main())
    assert order == ["write", "read"]


def test_a_forgotten_descriptor_wakes_who_waits(pair: tuple[socket.socket, socket.socket]) -> None:
    """Closing a descriptor under a waiting task is an error in that task, not a wait for ever."""
    ours, _ = pair
    reactor = Reactor()

    async def waiter() -> None:
        with pytest.raises(ConnectionAbortedError):
            await reactor.readable(ours.fileno(), NEVER)

    async def main() -> None:
        task = reactor.spawn(waiter(), "waiter")
        reactor.forget(ours.fileno())
        await task.join(reactor.clock() + LONG_S)
        with pytest.raises(ConnectionAbortedError):
            await reactor.readable(-1, NEVER)

    reactor.run(main())


def test_a_cancelled_task_runs_nothing_more(pair: tuple[socket.socket, socket.socket]) -> None:
    """Readiness that comes together with a cancel resumes nothing but the task's own clean-up."""
    ours, theirs = pair
    reactor = Reactor()
    ran: list[str] = []

    async def victim() -> None:
        try:
            await reactor.readable(ours.fileno(), NEVER)
            ran.append("went on")
        finally:
            ran.append("cleaned up")

    async def main() -> None:
        task = reactor.spawn(victim(), "victim")
        theirs.send(b"x")
        task.cancel()
        await task.join(reactor.clock() + LONG_S)
        assert task.is_done

    reactor.run(main())
    assert ran == ["cleaned up"]


def test_a_cancel_passes_through_except_exception() -> None:
    """A task cannot take its end for an error of its own."""
    reactor = Reactor()
    caught: list[str] = []

    async def stubborn() -> None:
        try:
            await reactor.sleep(reactor.clock() + LONG_S)
        except Exception:  # noqa: BLE001  what is tested
            caught.append("exception")
        except Cancelled:
            caught.append("cancelled")
            raise

    async def main() -> None:
        task = reactor.spawn(stubborn(), "stubborn")
        task.cancel()
        await task.join(reactor.clock() + LONG_S)

    reactor.run(main())
    assert caught == ["cancelled"]


def test_a_crash_ends_one_task(capsys: pytest.CaptureFixture[str]) -> None:
    """An error in one task is reported and ends nothing else."""
    reactor = Reactor()

    async def crash() -> None:
        raise ValueError("on purpose")

    async def main() -> None:
        task = reactor.spawn(crash(), "crash")
        await task.join(reactor.clock() + LONG_S)

    reactor.run(main())
    assert "on purpose" in capsys.readouterr().err


def test_the_end_of_main_ends_every_task() -> None:
    """When `run` returns no task is left, and each has cleaned up."""
    reactor = Reactor()
    ended: list[int] = []

    async def forever(number: int) -> None:
        try:
            await reactor.sleep(NEVER)
        finally:
            ended.append(number)

    async def main() -> None:
        for number in range(3):
            reactor.spawn(forever(number), "forever")

    reactor.run(main())
    assert sorted(ended) == [0, 1, 2]


def test_what_main_raises_comes_out_of_run() -> None:
    """The caller of `run` sees the error of `main`."""

    async def main() -> None:
        raise KeyError("main")

    with pytest.raises(KeyError, match="main"):
        Reactor().run(main())


def test_a_thread_brings_back_values_and_errors() -> None:
    """A blocking function's value or error comes back to the task that asked."""
    reactor = Reactor()

    def fail() -> None:
        raise OSError("from the thread")

    async def main() -> None:
        assert await reactor.in_thread(os.path.join, "a", "b", deadline=reactor.clock() + LONG_S) == "a/b"
        with pytest.raises(OSError, match="from the thread"):
            await reactor.in_thread(fail, deadline=reactor.clock() + LONG_S)

    reactor.run(main())


def test_threads_that_hang_are_abandoned() -> None:
    """When every thread is stuck, a call ends at its deadline, and it never runs afterwards."""
    reactor = Reactor()
    released = threading.Event()
    ran: list[str] = []

    async def stuck() -> None:
        with pytest.raises(TimeoutError):
            await reactor.in_thread(released.wait, LONG_S, deadline=reactor.clock() + 0.05)

    async def main() -> None:
        tasks = [reactor.spawn(stuck(), "stuck") for _ in range(THREADS_MAX)]
        with pytest.raises(TimeoutError):
            await reactor.in_thread(ran.append, "late", deadline=reactor.clock() + 0.05)
        for task in tasks:
            await task.join(reactor.clock() + LONG_S)
        released.set()
        await reactor.in_thread(ran.append, "after", deadline=reactor.clock() + LONG_S)

    reactor.run(main())
    assert ran == ["after"]


def test_the_first_delivery_counts() -> None:
    """A value that was delivered is not replaced, and is there for who comes late."""
    reactor = Reactor()

    async def main() -> None:
        pending: Pending[int] = Pending(reactor)
        pending.resolve(1)
        pending.fail(OSError())
        assert await pending.wait(NEVER) == 1

    reactor.run(main())


def test_a_broken_connection_that_nobody_waits_for_does_not_spin(pair: tuple[socket.socket, socket.socket]) -> None:
    """A hang-up, which epoll always reports, is taken out of the set until somebody waits again."""
    ours, theirs = pair
    reactor = Reactor()

    async def main() -> None:
        theirs.send(b"x")
        await reactor.readable(ours.fileno(), reactor.clock() + LONG_S)
        theirs.close()
        start = os.times()
        await reactor.sleep(reactor.clock() + 0.3)
        end = os.times()
        assert end.user + end.system - start.user - start.system < 0.2
        await reactor.readable(ours.fileno(), reactor.clock() + LONG_S)

    reactor.run(main())


def test_old_deadlines_are_not_kept() -> None:
    """A thousand waits with far deadlines leave a bounded number of timers behind."""
    reactor = Reactor()

    async def brief() -> None:
        pending: Pending[None] = Pending(reactor)
        reactor.post(lambda: pending.resolve(None))
        await pending.wait(reactor.clock() + LONG_S)

    async def main() -> None:
        for _ in range(5000):
            await reactor.spawn(brief(), "brief").join(reactor.clock() + LONG_S)

    reactor.run(main())
    assert len(reactor._timers) < 1100  # noqa: SLF001  there is no other way to see what is kept
