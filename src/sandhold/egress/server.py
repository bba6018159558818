"""Egress as a whole: the sockets from inside the cell, the link to the session, and everything between start and stop.

1. It says that it is ready when it listens, and it runs on one generation until it is told to apply another.
2. Applying a policy judges every open connection again and cuts what is denied; the answer is sent when that is on
   record. A policy that cannot be read denies everything.
3. When the session says stop, or is gone, every connection is cut and its end recorded before anything else.
4. A connection over the limit, or one that there is no descriptor for, costs the sandbox that connection and nothing
   else.
5. While many connections are in the middle of their opening, new ones stay in the kernel's queue for `OPENINGS_WAIT_S`
   at most: a thousand that are opened at once take turns at the memory of an opening, and none waits for a silent one.
6. When a part that is there for all connections crashes (what accepts, answers queries, records, or watches
   expiries), egress ends, as by rule 3: without it connections would hang, or outlive the rule that allowed them.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import resource
import socket
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sandhold.egress.answers import Answers
from sandhold.egress.connection import handle
from sandhold.egress.denial import because
from sandhold.egress.flows import CONNECTIONS_MAX, Flows
from sandhold.egress.gateway import Gateway, nobody
from sandhold.egress.nameserver import Nameserver
from sandhold.egress.pipes import PipePool
from sandhold.egress.reactor import NEVER, Reactor, Task
from sandhold.egress.recording import Recorder
from sandhold.egress.relay import IDLE_CHECK_S
from sandhold.egress.stream import Stream
from sandhold.egress.synthetic_names import SyntheticNames
from sandhold.egress.threads import Threads
from sandhold.egress.upstream import Connect, Lookup, Upstream, look_up, prepare
from sandhold.linux.netns import original_destination
from sandhold.linux.syscalls import trim_heap
from sandhold.model.decision import Reason
from sandhold.model.event import ULID_RANDOM_BYTES, Connection, Via, Why, make_event_id
from sandhold.policy.decide import unreadable_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
    from ipaddress import IPv4Address, IPv6Address
    from pathlib import Path

    from sandhold.egress.certificates import Authority
    from sandhold.egress.flows import Flow
    from sandhold.egress.host_proxy import HostProxy
    from sandhold.linux.sock_diag import SocketOwners
    from sandhold.model.event import Event, EventId
    from sandhold.policy.index import PolicyIndex

ACCEPT_BATCH_MAX: Final = 16  # connections taken in one turn, so that the open ones are served meanwhile
OPENINGS_WAIT_S: Final = 0.02  # for openings to end before the next batch: 800 connections a second, whatever they do
OPENINGS_STEP_S: Final = 0.002  # between two looks at whether they have: four of them end meanwhile
ACCEPT_PAUSE_S: Final = 0.1  # after accept(2) found no descriptor or memory; closing connections frees some
DESCRIPTORS_RESERVED: Final = 128  # for everything that is no connection: sockets, pipes, trail, database, threads
DESCRIPTORS_PER_CONNECTION: Final = 2
MESSAGE_BYTES_MAX: Final = 4096  # of the session; the longest we know has 20
RELOAD_TIMEOUT_S: Final = 45.0  # reading as many rules as there may be takes a sixth of that
CUT_TIMEOUT_S: Final = 5.0  # for the tasks of cut connections to end; they have nothing left to wait for
FLUSH_TIMEOUT_S: Final = 8.0  # for end records to be on disk, at the end of the session too
RESOLVER_OPTIONS: Final = "timeout:2 attempts:2"  # resolv.conf(5); by default a dead resolver holds a thread for 20 s
DRAWN_AT_ONCE: Final = 64  # the random part of so many event ids
EXPIRY_CHECK_S: Final = 0.5  # how late a connection may be cut after the rule that allowed it has expired


@dataclass(frozen=True, slots=True)
class Inside:
    """The sockets made inside the cell, IPv4 and IPv6 each: listening, bound, listening; `owners` tells whose a
    connection is, where that can be told."""

    tcp: tuple[socket.socket, ...]
    dns_udp: tuple[socket.socket, ...]
    dns_tcp: tuple[socket.socket, ...]
    owners: SocketOwners | None = None


@dataclass(frozen=True, slots=True)
class EgressSetup:
    """Everything egress is given.

    `append` is durable when it returns or raises OSError, and is called by one thread; `written` is how many bytes it
    has put into the trail. `authority` is the folder of the
    installation's authority, or the authority itself. `reload` reads the policy as it is now. The last three are how
    the world is reached; tests put a small one in their place.
    """

    inside: Inside
    sandbox: str
    index: PolicyIndex
    append: Callable[[Sequence[Event]], None]
    authority: Path | Authority
    now: Callable[[], float]
    reload: Callable[[], PolicyIndex]
    proxy: HostProxy | None = None
    resolvers: Callable[[], tuple[str, ...]] = tuple
    written: Callable[[], int] = lambda: 0
    connections_max: int = CONNECTIONS_MAX
    randomness: Callable[[int], bytes] = os.urandom
    lookup: Lookup = look_up
    connect: Connect = socket.socket.connect_ex
    original_destination: Callable[[socket.socket], tuple[IPv4Address | IPv6Address, int]] = original_destination


def serve(setup: EgressSetup, link: socket.socket) -> None:
    """Run until the link (AF_UNIX, SOCK_SEQPACKET) says stop or closes; the sockets inside are closed then."""
    # resolver(5): no search domains. The name that was judged is the name that is looked up, never one made from it.
    os.environ["LOCALDOMAIN"] = ""
    # A look-up that a sandbox makes slow gives its thread back soon after we have stopped waiting for it.
    os.environ["RES_OPTIONS"] = RESOLVER_OPTIONS
    reactor = Reactor()

    draw = _in_advance(setup.randomness)

    def new_event() -> EventId:
        return make_event_id(int(setup.now() * 1000), draw())

    recorder = Recorder(reactor, setup.append, new_event, setup.now, setup.written)
    gateway = _make_gateway(setup, reactor, recorder, new_event)
    try:
        reactor.run(_Server(setup, link, gateway, recorder).run())
    finally:
        recorder.stop()
        gateway.pipes.close()
        for sock in (*setup.inside.tcp, *setup.inside.dns_udp, *setup.inside.dns_tcp):
            sock.close()
        if setup.inside.owners is not None:
            setup.inside.owners.link.close()


def _in_advance(randomness: Callable[[int], bytes]) -> Callable[[], bytes]:
    """Return a source of an id's random bytes that asks for many at once: each system call lets other threads in.

    Any thread may call it.
    """
    left: list[bytes] = []

    def draw() -> bytes:
        try:
            return left.pop()
        except IndexError:
            drawn = randomness(DRAWN_AT_ONCE * ULID_RANDOM_BYTES)
            first, *more = (drawn[at : at + ULID_RANDOM_BYTES] for at in range(0, len(drawn), ULID_RANDOM_BYTES))
            left.extend(more)
            return first

    return draw


def _make_gateway(
    setup: EgressSetup, reactor: Reactor, recorder: Recorder, new_event: Callable[[], EventId]
) -> Gateway:
    affordable = (_raise_descriptor_limit() - DESCRIPTORS_RESERVED) // DESCRIPTORS_PER_CONNECTION
    return Gateway(
        reactor=reactor,
        sandbox=setup.sandbox,
        names=SyntheticNames(),
        authority=functools.cache(lambda: _load_authority(setup.authority)),
        index=setup.index,
        record=recorder.record,
        note=recorder.note,
        note_denial=recorder.note_denial,
        is_trail_spent=recorder.is_spent,
        upstream=Upstream(reactor, Answers(reactor, setup.lookup), setup.proxy, setup.connect),
        flows=Flows(min(setup.connections_max, affordable)),
        pipes=PipePool(),
        now=setup.now,
        new_event=new_event,
        original_destination=setup.original_destination,
        user_of=nobody if setup.inside.owners is None else setup.inside.owners.user_of,
        resolvers=setup.resolvers,
    )


def _load_authority(given: Path | Authority) -> Authority:
    from sandhold.egress.certificates import Authority  # noqa: PLC0415  ssl and cryptography cost 150 ms at start-up

    return given if isinstance(given, Authority) else Authority.load_or_create(given)


def _raise_descriptor_limit() -> int:
    """Ask for every descriptor we may have (getrlimit(2)); returns how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return soft
    return hard if hard != resource.RLIM_INFINITY else sys.maxsize


class _Server:
    """The running whole: what was started, and how it is told to change and to end."""

    def __init__(self, setup: EgressSetup, link: socket.socket, gateway: Gateway, recorder: Recorder) -> None:
        self._setup = setup
        self._link = link
        self._gateway = gateway
        self._recorder = recorder
        self._tasks: list[Task] = []

    async def run(self) -> None:
        """Serve until the session says stop or is gone (rules 1 and 3)."""
        gateway, inside = self._gateway, self._setup.inside
        nameserver = Nameserver(gateway)
        for work, name in (
            *((_accept(gateway, listener), "accept") for listener in inside.tcp),
            *((nameserver.serve_udp(sock), "dns-udp") for sock in inside.dns_udp),
            *((nameserver.serve_tcp(listener), "dns-tcp") for listener in inside.dns_tcp),
            (_watch_expiry(gateway), "expiry"),
            (_watch_idle(gateway), "idle"),
            (self._recorder.watch(), "recorded"),
        ):
            self._tasks.append(gateway.reactor.spawn(self._hold_up(work), name))
        self._link.settimeout(0)
        gateway.reactor.prefer(self._link.fileno())
        gc.collect()
        trim_heap()
        gc.freeze()
        self._say({"ready": gateway.index.policy.generation})
        try:
            while (message := await self._hear()) is not None and "stop" not in message:
                if "apply" in message:
                    await self._apply()
        finally:
            gateway.flows.cut_all(Why.SESSION_ENDED)  # also when we are wrong: no connection outlives its server
        await self._end()
        self._say({"stopped": True})

    async def _hold_up(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what every connection needs; a crash of it is the end of egress (rule 6)."""
        try:
            await work
        except Exception:
            self._link.shutdown(socket.SHUT_RD)  # the next `_hear` finds the end, as if the session were gone
            raise

    async def _hear(self) -> Mapping[str, object] | None:
        """The session's next message; None when it is gone, or says something that is no message."""
        while True:
            try:
                packet = self._link.recv(MESSAGE_BYTES_MAX)
                message = json.loads(packet) if packet else None
            except BlockingIOError:
                await self._gateway.reactor.readable(self._link.fileno(), NEVER)
            except (OSError, ValueError):
                return None
            else:
                return message if isinstance(message, dict) else None

    def _say(self, message: Mapping[str, int | bool]) -> None:
        try:
            self._link.send(json.dumps(message).encode("ascii"))
        except OSError:
            return  # the session is gone: the next `_hear` says so

    async def _apply(self) -> None:
        """Rule 2."""
        gateway = self._gateway
        deadline = gateway.reactor.clock() + RELOAD_TIMEOUT_S
        try:
            gateway.index = await self._reload(deadline)
        except Exception:  # noqa: BLE001  whatever it is: nobody knows what the policy says
            traceback.print_exc(file=sys.stderr)
            gateway.index = unreadable_policy(gateway.index.policy.generation)
        cut = gateway.flows.cut_denied(gateway.index, gateway.now())
        await self._settle(cut)
        self._say({"applied": gateway.index.policy.generation, "cut": len(cut)})

    async def _reload(self, deadline: float) -> PolicyIndex:
        """Read the policy on a thread that no look-up of the sandbox can keep busy."""
        own = Threads(self._gateway.reactor, threads_max=1)
        try:
            return await own.run(self._setup.reload, deadline=deadline)
        finally:
            own.close()

    async def _end(self) -> None:
        """Rule 3."""
        for task in self._tasks:
            task.cancel()
        await self._settle(self._gateway.flows.cut_all(Why.SESSION_ENDED))

    async def _settle(self, cut: Iterable[Flow]) -> None:
        """Wait until connections that were cut have ended and their ends are on record."""
        reactor = self._gateway.reactor
        try:
            for task in (flow.task for flow in cut if flow.task is not None):
                await task.join(reactor.clock() + CUT_TIMEOUT_S)
            await self._recorder.flush(reactor.clock() + FLUSH_TIMEOUT_S)
        except OSError as error:  # TimeoutError is one: they stay queued and are tried again
            sys.stderr.write(f"end records are not on disk yet: {error}\n")


async def _accept(gateway: Gateway, listener: socket.socket) -> None:
    """Take connections until the task is cancelled."""
    reactor = gateway.reactor
    listener.settimeout(0)
    prepare(listener)  # what is accepted inherits it
    family = int(listener.family)
    while True:
        await reactor.readable(listener.fileno(), NEVER)
        await _let_openings_end(gateway)
        try:
            for _ in range(ACCEPT_BATCH_MAX):
                sock = _accepted(listener, family)
                if gateway.flows.is_full:
                    _turn_away(gateway, sock)
                else:
                    reactor.spawn(handle(gateway, sock), "connection")
        except (BlockingIOError, ConnectionError):
            continue  # nobody is left in the queue, or somebody left it
        except OSError:
            await reactor.sleep(reactor.clock() + ACCEPT_PAUSE_S)  # rule 4


async def _let_openings_end(gateway: Gateway) -> None:
    """Wait by rule 5 while many connections are being opened."""
    reactor = gateway.reactor
    until = reactor.clock() + OPENINGS_WAIT_S
    while gateway.flows.are_many_opening and reactor.clock() < until:
        await reactor.sleep(reactor.clock() + OPENINGS_STEP_S)


def _accepted(listener: socket.socket, family: int) -> socket.socket:
    """accept(2): `socket.accept` asks the listener for its family and type anew each time, as members of enumerations.

    Raises:
        OSError: as accept(2) does.
    """
    fd, _peer = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001  `socket.accept` is made of it
    return socket.socket(family, socket.SOCK_STREAM, 0, fd)


def _turn_away(gateway: Gateway, sock: socket.socket) -> None:
    """Reset a connection that is one too many; it stays on record."""
    decision = because(gateway, Reason.CONNECTION_LIMIT)
    try:
        original = gateway.original_destination(sock)
    except OSError:
        original = None
    gateway.note_denial(Connection(gateway.new_event(), Via.TRANSPARENT, None, (), original, decision))
    Stream(gateway.reactor, sock).reset()


async def _watch_expiry(gateway: Gateway) -> None:
    """Cut connections when the rule that allows them expires, as a change of policy would."""
    index: PolicyIndex | None = None
    expiries: tuple[float, ...] = ()
    before = gateway.now()
    while True:
        await gateway.reactor.sleep(gateway.reactor.clock() + EXPIRY_CHECK_S)
        if index is not gateway.index:
            index = gateway.index
            expiries = index.expiries
        now = gateway.now()
        if any(before < at <= now for at in expiries):
            gateway.flows.cut_denied(index, now)
        before = now


async def _watch_idle(gateway: Gateway) -> None:
    """End connections that have carried nothing for too long."""
    while True:
        await gateway.reactor.sleep(gateway.reactor.clock() + IDLE_CHECK_S)
        gateway.flows.end_idle(gateway.reactor.clock())
