"""Bytes both ways, uninterpreted: copied while there are few, spliced (splice(2)) once there are many.

1. One burst for each readiness, served after everything else, and after connections that have carried little: none can
   keep the others waiting.
2. Nothing is read that the other side has not room for; what is held is one buffer or one pipe.
3. The end of one direction is passed on and the other goes on (half-close).
4. A broken side breaks the other with a reset, never with a regular end that would look like a whole answer.
5. An idle relay is two descriptors and a few hundred bytes: functions that the reactor calls, no task and no timer.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING, Final

from sandhold.egress.pipes import PIPE_BYTES
from sandhold.egress.reactor import READABLE, WRITABLE, Pending
from sandhold.egress.stream import READ_BYTES
from sandhold.model.event import Why

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandhold.egress.flows import Flow
    from sandhold.egress.gateway import Gateway
    from sandhold.egress.pipes import Pipe
    from sandhold.egress.stream import Stream

    End = Callable[[Gateway, Flow], None]

SPLICE_AFTER_BYTES: Final = 256 * 1024  # short connections never need a pipe
ROOM_BYTES: Final = 512 * 1024  # bursts cost less the larger they are; with more, far ends keep new connections waiting
IDLE_S: Final = 3600.0  # without a byte in either direction; keep-alive probes find the dead ones before
IDLE_CHECK_S: Final = 30.0  # how much later than that it may be noticed
_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Relay:
    """Both directions between a connection's two sides, each from when it is started; says in `flow` why it ended.

    It ends once: with both directions, with a broken side, or by `stop`.
    """

    __slots__ = ("_flow", "_gateway", "_on_end", "down", "is_over", "up")

    def __init__(self, gateway: Gateway, flow: Flow, upstream: Stream) -> None:
        self._gateway = gateway
        self._flow = flow
        self._on_end: End | None = None
        self.is_over = False
        self.up = _Side(self, flow.downstream)
        self.down = _Side(self, upstream)
        flow.active_at = gateway.reactor.clock()

    def carry_down(self) -> None:
        """Start to carry from the far end to the sandbox."""
        self._start(self.down, self.up)
        self._watch()

    def carry_both(self, on_end: End) -> None:
        """Carry both ways from here on; `on_end` is called once when that is over, at once if it is over already."""
        self._on_end = on_end
        if self.is_over:
            on_end(self._gateway, self._flow)
            return
        try:
            self._start(self.up, self.down)
            self._start(self.down, self.up)
            self._watch()
        except Exception:  # noqa: BLE001  as in `serve`
            self._fail()

    def stop(self) -> None:
        """Carry nothing more; both sides stay as they are. A second call does nothing."""
        if self.is_over:
            return
        self.is_over = True
        self._unwatch()
        for side in (self.up, self.down):
            side.drop(self._gateway)
        if self._on_end is not None:
            self._on_end(self._gateway, self._flow)

    def end_if_idle(self, now: float) -> None:
        """End a connection that carried nothing in either direction for `IDLE_S`."""
        if not self.is_over and now >= self._flow.active_at + IDLE_S:
            self._break(Why.IDLE)

    def serve(self, side: _Side, events: int) -> None:
        """Serve one descriptor that is ready: what is held for it first, then one burst from it (rule 1)."""
        other = self.down if side is self.up else self.up
        try:
            if events & WRITABLE and other.is_holding:
                self._write(other, side)
            if events & READABLE and side.is_open and not side.is_holding and not self.is_over:
                self._read(side, other)
            self._watch()
        except Exception:  # noqa: BLE001  it costs this connection and no other
            self._fail()

    def _start(self, side: _Side, sink: _Side) -> None:
        side.is_open = not side.is_ended
        early = side.stream.take_early()
        if early and not self.is_over:
            side.hold(early)
            self._count(side, len(early))
            self._write(side, sink)

    def _watch(self) -> None:
        """Have the reactor say what can be gone on with now, and nothing else (rule 2)."""
        if self.is_over:
            return
        for side, other in ((self.up, self.down), (self.down, self.up)):
            mask = (READABLE if side.is_open and not side.is_holding else 0) | (WRITABLE if other.is_holding else 0)
            if mask != side.mask:
                self._gateway.reactor.serve(side.stream.fileno(), side, side.mask, mask)
                side.mask = mask

    def _unwatch(self) -> None:
        for side in (self.up, self.down):
            if side.mask and side.stream.fileno() >= 0:
                self._gateway.reactor.serve(side.stream.fileno(), side, side.mask, 0)
            side.mask = 0

    def _read(self, side: _Side, sink: _Side) -> None:
        carried = self._flow.bytes_up if side is self.up else self._flow.bytes_down
        pipe = self._borrow_pipe() if carried >= SPLICE_AFTER_BYTES else None
        try:
            size = side.copy() if pipe is None else side.splice(pipe)
        except BlockingIOError:
            size = None
        except OSError:
            self._break(self._gone(side))
            size = None
        if pipe is not None and side.pipe is None:
            self._gateway.pipes.give_back(pipe, is_empty=True)
        if size == 0:
            self._end(side, sink)
        elif size is not None:
            if pipe is None:
                self._count(side, size)
            self._write(side, sink)

    def _borrow_pipe(self) -> Pipe | None:
        """Take a pipe for a burst; a connection with so much to do leaves its place to others from now on."""
        if not self.up.is_heavy:
            self._unwatch()
            self.up.is_heavy = self.down.is_heavy = True  # from the next `_watch` on
            for side in (self.up, self.down):
                side.stream.make_room(ROOM_BYTES)
        return self._gateway.pipes.borrow()

    def _write(self, side: _Side, sink: _Side) -> None:
        """Pass on what is held of `side`, as much as there is room for."""
        try:
            while side.pipe is not None:
                size = os.splice(side.pipe.source, sink.stream.fileno(), side.inside, flags=_FLAGS)
                self._count(side, size)
                side.inside -= size
                if side.inside == 0:
                    side.let_go_of_pipe(self._gateway)
            if side.held is not None:
                sent = sink.stream.sock.send(side.held)
                if sent < len(side.held):
                    side.held = side.held[sent:]
                    return
            side.held = None
            side.is_holding = False
        except BlockingIOError:
            return
        except OSError:
            self._break(self._gone(sink))

    def _end(self, side: _Side, sink: _Side) -> None:
        """Rule 3."""
        side.is_ended = True
        side.is_open = False
        if sink.is_ended:
            self.stop()  # whoever closes the sink says so to it
            return
        sink.stream.end_writing()
        if not sink.is_holding:  # an end stays readable, and would be reported again in each turn
            self._gateway.reactor.forget(side.stream.fileno())
            side.mask = 0

    def _break(self, why: Why) -> None:
        """Rule 4."""
        self._flow.end(why)
        self._flow.reset()
        self.stop()

    def _fail(self) -> None:
        """We are wrong, or the kernel has no room for what we wait for: break both sides, and leave that on record."""
        traceback.print_exc(file=sys.stderr)
        self._break(Why.REFUSED)

    def _gone(self, side: _Side) -> Why:
        return Why.DOWNSTREAM_GONE if side is self.up else Why.UPSTREAM_GONE

    def _count(self, side: _Side, size: int) -> None:
        if side is self.up:
            self._flow.bytes_up += size
        else:
            self._flow.bytes_down += size
        self._flow.active_at = self._gateway.reactor.clock()


class _Side:
    """One socket of a relay, and the direction that begins there: what was read from it and is not passed on yet.

    `is_open` says that more may come from it, `is_holding` that the other side has not room for what did, `is_heavy`
    that the connection has carried so much that new ones go before it.
    """

    __slots__ = (
        "held",
        "inside",
        "is_ended",
        "is_heavy",
        "is_holding",
        "is_open",
        "mask",
        "pipe",
        "relay",
        "stream",
    )

    def __init__(self, relay: Relay, stream: Stream) -> None:
        self.relay = relay
        self.stream = stream
        self.mask = 0
        self.held: memoryview | None = None
        self.pipe: Pipe | None = None
        self.inside = 0
        self.is_open = False
        self.is_ended = False
        self.is_holding = False
        self.is_heavy = False

    def ready(self, events: int) -> None:
        """Be served by the reactor."""
        self.relay.serve(self, events)

    def copy(self) -> int:
        """Read once and hold it; 0 is the end."""
        data = self.stream.sock.recv(READ_BYTES)
        if data:
            self.hold(data)
        return len(data)

    def splice(self, pipe: Pipe) -> int:
        """Read once into a pipe and hold that; 0 is the end."""
        size = os.splice(self.stream.fileno(), pipe.sink, PIPE_BYTES, flags=_FLAGS)
        if size:
            self.pipe, self.inside, self.is_holding = pipe, size, True
        return size

    def hold(self, data: bytes) -> None:
        """Keep what was read until it is passed on."""
        self.held = memoryview(data)
        self.is_holding = True

    def drop(self, gateway: Gateway) -> None:
        """Let go of what is held."""
        self.held, self.is_holding = None, False
        self.let_go_of_pipe(gateway)

    def let_go_of_pipe(self, gateway: Gateway) -> None:
        """Give a pipe back, with what is still in it or without."""
        if self.pipe is not None:
            gateway.pipes.give_back(self.pipe, is_empty=self.inside == 0)
            self.pipe = None


async def relay(gateway: Gateway, flow: Flow, upstream: Stream) -> None:
    """Carry bytes between both sides of a connection until that is over, for a task that goes on afterwards."""
    over: Pending[None] = Pending(gateway.reactor)
    both = Relay(gateway, flow, upstream)
    try:
        both.carry_both(lambda _gateway, _flow: over.resolve(None))
        while not over.is_done:
            try:
                await over.wait(flow.active_at + IDLE_S)
            except TimeoutError:
                both.end_if_idle(gateway.reactor.clock())
    finally:
        both.stop()
