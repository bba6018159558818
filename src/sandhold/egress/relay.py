"""Bytes both ways, uninterpreted: copied while there are few, spliced (splice(2)) once there are many.

1. One burst for each readiness: no connection can keep the others waiting.
2. Nothing is read that the other side has not room for; what is held is one buffer or one pipe.
3. The end of one direction is passed on and the other goes on (half-close).
4. A broken side breaks the other with a reset, never with a regular end that would look like a whole answer.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandhold.egress.reactor import NEVER
from sandhold.egress.stream import READ_BYTES
from sandhold.model.event import Why

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandhold.egress.flows import Flow
    from sandhold.egress.gateway import Gateway
    from sandhold.egress.reactor import Reactor, Task
    from sandhold.egress.stream import Stream

SPLICE_AFTER_BYTES: Final = 256 * 1024  # short connections never need a pipe
PIPE_BYTES: Final = 1024 * 1024  # /proc/sys/fs/pipe-max-size: what one user may ask for
PIPES_MAX: Final = 4  # fs.pipe-user-pages-soft is 64 MiB a user: room for sixteen sandboxes
IDLE_S: Final = 3600.0  # without a byte in either direction; keep-alive probes find the dead ones before
_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


@dataclass(frozen=True, slots=True)
class Pipe:
    """A pipe through which one burst goes."""

    source: int
    sink: int


class PipePool:
    """The few pipes of the process; they are lent for a burst."""

    def __init__(self, limit: int = PIPES_MAX) -> None:
        self._idle: list[Pipe] = []
        self._count = 0
        self._limit = limit

    def borrow(self) -> Pipe | None:
        """Lend a pipe, or None: then copy."""
        if self._idle:
            return self._idle.pop()
        if self._count >= self._limit:
            return None
        try:
            pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            return None
        self._count += 1
        with contextlib.suppress(OSError):  # EPERM: the user's share of pipe memory is used up; a small pipe works too
            fcntl.fcntl(pipe.sink, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return pipe

    def give_back(self, pipe: Pipe, *, is_empty: bool) -> None:
        """Take a pipe back; one that still holds bytes of a broken connection is thrown away with them."""
        if is_empty:
            self._idle.append(pipe)
        else:
            self._count -= 1
            _close(pipe)

    def close(self) -> None:
        """Close the idle pipes."""
        while self._idle:
            _close(self._idle.pop())


@dataclass(frozen=True, slots=True)
class _Direction:
    """One way through: who gives, who takes, how bytes are counted, whom to blame."""

    source: Stream
    sink: Stream
    count: Callable[[int], None]
    source_gone: Why
    sink_gone: Why


async def relay(gateway: Gateway, flow: Flow, upstream: Stream) -> None:
    """Carry bytes between both sides of a connection until both have ended; says in `flow` why."""
    down = gateway.reactor.spawn(carry_down(gateway, flow, upstream), "carry-down")
    await relay_up(gateway, flow, upstream, down)


async def relay_up(gateway: Gateway, flow: Flow, upstream: Stream, down: Task) -> None:
    """Carry what the sandbox says, beside a `carry_down` that runs already, until both have ended."""
    try:
        await carry_up(gateway, flow, upstream)
        await down.join(NEVER)  # each of its waits has its own end
    finally:
        down.cancel()


async def carry_up(gateway: Gateway, flow: Flow, upstream: Stream) -> None:
    """Carry from the sandbox to the far end until that direction ends."""

    def count(size: int) -> None:
        flow.bytes_up += size
        flow.active_at = gateway.reactor.clock()

    flow.active_at = gateway.reactor.clock()
    await _carry(gateway, flow, _Direction(flow.downstream, upstream, count, Why.DOWNSTREAM_GONE, Why.UPSTREAM_GONE))


async def carry_down(gateway: Gateway, flow: Flow, upstream: Stream) -> None:
    """Carry from the far end to the sandbox until that direction ends."""

    def count(size: int) -> None:
        flow.bytes_down += size
        flow.active_at = gateway.reactor.clock()

    flow.active_at = gateway.reactor.clock()
    await _carry(gateway, flow, _Direction(upstream, flow.downstream, count, Why.UPSTREAM_GONE, Why.DOWNSTREAM_GONE))


async def _carry(gateway: Gateway, flow: Flow, way: _Direction) -> None:
    try:
        await _copy(gateway.reactor, flow, way)
        await _splice(gateway, flow, way)
    except _EndOfStreamError:
        way.sink.end_writing()
    except TimeoutError:
        flow.end(Why.IDLE)
        flow.reset()
    except _SourceGoneError:
        flow.end(way.source_gone)
        flow.reset()
    except OSError:
        flow.end(way.sink_gone)
        flow.reset()


class _EndOfStreamError(Exception):
    """The source has ended in order."""


class _SourceGoneError(Exception):
    """The source is broken."""


async def _copy(reactor: Reactor, flow: Flow, way: _Direction) -> None:
    """Copy until `SPLICE_AFTER_BYTES` have passed."""
    copied = 0
    while copied < SPLICE_AFTER_BYTES:
        copied += await _copy_burst(reactor, flow, way)


async def _copy_burst(reactor: Reactor, flow: Flow, way: _Direction) -> int:
    if not way.source.early:
        await _ready_to_read(reactor, flow, way.source)
    try:
        data = await way.source.read(READ_BYTES, reactor.clock() + IDLE_S)
    except TimeoutError:
        raise
    except OSError as error:
        raise _SourceGoneError from error
    if not data:
        raise _EndOfStreamError
    way.count(len(data))
    await way.sink.write(data, reactor.clock() + IDLE_S)
    return len(data)


async def _splice(gateway: Gateway, flow: Flow, way: _Direction) -> None:
    """Move bursts through a borrowed pipe, or copy when there is none."""
    while True:
        await _ready_to_read(gateway.reactor, flow, way.source)
        pipe = gateway.pipes.borrow()
        if pipe is None:
            await _copy_burst(gateway.reactor, flow, way)
            continue
        inside = 0
        try:
            inside = _fill(pipe, way.source)
            while inside:
                inside -= await _drain(gateway.reactor, pipe, way, inside)
        finally:
            gateway.pipes.give_back(pipe, is_empty=inside == 0)


def _fill(pipe: Pipe, source: Stream) -> int:
    try:
        size = os.splice(source.fileno(), pipe.sink, PIPE_BYTES, flags=_FLAGS)
    except BlockingIOError:
        return 0
    except OSError as error:
        raise _SourceGoneError from error
    if size == 0:
        raise _EndOfStreamError
    return size


async def _drain(reactor: Reactor, pipe: Pipe, way: _Direction, inside: int) -> int:
    try:
        size = os.splice(pipe.source, way.sink.fileno(), inside, flags=_FLAGS)
    except BlockingIOError:
        await reactor.writable(way.sink.fileno(), reactor.clock() + IDLE_S)
        return 0
    way.count(size)
    return size


async def _ready_to_read(reactor: Reactor, flow: Flow, source: Stream) -> None:
    """Wait for the source; a direction may be silent for as long as the other is not."""
    while True:
        try:
            return await reactor.readable(source.fileno(), flow.active_at + IDLE_S)
        except TimeoutError:
            if reactor.clock() >= flow.active_at + IDLE_S:
                raise
        except OSError as error:
            raise _SourceGoneError from error


def _close(pipe: Pipe) -> None:
    os.close(pipe.source)
    os.close(pipe.sink)
