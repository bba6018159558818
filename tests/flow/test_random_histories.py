"""Random histories of one sandbox's network against a small model: no byte without a recorded permission, ever.

The machine changes the policy, uses connections, fills and frees the disk of the trail, loses the session and starts
again, in any order. What the model knows is the policy in force and which connections it let in; its verdicts are the
slow reference's.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sandhold.egress.certificates import Authority
from sandhold.model.destination import Destination, DomainName, Source
from sandhold.model.event import Closed, Connection, Established
from tests.simulators import PATIENCE_S, EgressSimulation, FarEnd, Internet, TrailSimulator, echo, policy
from tests.unit.policy import reference

if TYPE_CHECKING:
    import socket

    from sandhold.model.rule import Policy

SANDBOX: Final = "sbxlab"
PORTS: Final = (22, 8080)
ADDRESSES: Final = {"a.test": "203.0.113.1", "b.test": "203.0.113.2", "c.test": "203.0.113.3"}
RESOURCES: Final = ("a.test:*", "b.test:22", "*.test:8080", "c.test:22", "203.0.113.1:*", "203.0.113.0/24:22", "**")
RULES: Final = tuple(
    f"{effect} {resource}" for effect in ("allow", "deny") for resource in RESOURCES if resource != "*.test:8080"
)
OPENING: Final = b"\0hello"


@dataclass(slots=True)
class Open:
    """A connection that was let in: who it is for, and the program's end of it."""

    name: str
    port: int
    sock: socket.socket


class History(RuleBasedStateMachine):
    """One sandbox's network and what the model knows of it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.authority = Authority.load_or_create(Path(self.folder.name) / "authority")
        self.far_ends = {(name, port): FarEnd(echo) for name in ADDRESSES for port in PORTS}
        self.internet = Internet()
        for name, address in ADDRESSES.items():
            self.internet.host(name, address, {port: self.far_ends[name, port] for port in PORTS})
        self.generation = 1
        self.index = policy("allow a.test:*")
        self.open: list[Open] = []
        self.left: list[tuple[str, int]] = []  # closed by the program; egress may have to notice yet
        self.trails: list[TrailSimulator] = []
        self.start()

    def teardown(self) -> None:
        """Stop everything."""
        if self.egress is not None:
            self.leave()
        for far_end in self.far_ends.values():
            far_end.close()
        self.folder.cleanup()

    def start(self) -> None:
        """Start egress under the policy as it is."""
        self.generation = 1  # what the simulation says first
        self.index = policy(*self.lines(), generation=1)
        self.egress: EgressSimulation | None = EgressSimulation(self.index, self.authority, self.internet).__enter__()
        self.trails.append(self.egress.trail)

    def leave(self) -> None:
        """Hang up: egress ends as when its session was killed, and takes every connection along."""
        assert self.egress is not None
        self.egress.trail.is_full = False
        for each in self.open:
            each.sock.close()
        self.open.clear()
        self.left.clear()
        egress, self.egress = self.egress, None
        egress.__exit__()

    def lines(self) -> tuple[str, ...]:
        """Return the rules in force as lines."""
        return tuple(f"{each.effect} {each.resource}" for each in self.index.policy.rules)

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self.index.policy

    def is_allowed(self, name: str, port: int) -> bool:
        """Ask the reference."""
        named = Destination(DomainName(name), port, Source.DNS)
        return reference.decide_address(self.policy, SANDBOX, named, ip_address(ADDRESSES[name]), 0.0).is_allowed

    @precondition(lambda self: self.egress is not None)
    @rule(lines=st.lists(st.sampled_from(RULES), max_size=4, unique=True))
    def change_policy(self, lines: list[str]) -> None:
        """Apply another policy; what it denies is cut by the time it is applied, what it allows goes on."""
        assert self.egress is not None
        self.generation += 1
        self.index = policy(*lines, generation=self.generation)
        answer = self.egress.apply(self.index)
        assert isinstance(answer, dict)
        denied = [each for each in self.open if not self.is_allowed(each.name, each.port)]
        left = sum(not self.is_allowed(name, port) for name, port in self.left)
        assert answer["applied"] == self.generation
        assert len(denied) <= answer["cut"] <= len(denied) + left
        for each in denied:
            with suppress(OSError):
                each.sock.sendall(b"more")
            assert _is_over(each.sock)
            each.sock.close()
            self.open.remove(each)

    @precondition(lambda self: self.egress is not None)
    @rule(name=st.sampled_from(sorted(ADDRESSES)), port=st.sampled_from(PORTS))
    def connect(self, name: str, port: int) -> None:
        """Open a connection: it reaches its far end if the reference and the disk allow it, and only then."""
        assert self.egress is not None
        before = self.far_ends[name, port].accepted
        is_allowed = self.is_allowed(name, port) and not self.egress.trail.is_full
        with suppress(OSError):
            sock = self.egress.dial(name, port)
            sock.settimeout(PATIENCE_S)
            sock.sendall(OPENING)
        if is_allowed:
            assert sock.recv(len(OPENING)) == OPENING
            self.open.append(Open(name, port, sock))
        else:
            assert _is_over(sock)
            sock.close()
        assert self.far_ends[name, port].accepted - before == int(is_allowed)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), text=st.binary(min_size=1, max_size=100))
    def send(self, data: st.DataObject, text: bytes) -> None:
        """Send on a connection that was let in; it comes back, also while the disk is full."""
        each = data.draw(st.sampled_from(range(len(self.open))))
        sock = self.open[each].sock
        sock.sendall(text)
        got = b""
        while len(got) < len(text):
            more = sock.recv(1000)
            assert more, "a permitted connection was cut"
            got += more
        assert got == text

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        """Close a connection."""
        each = self.open.pop(data.draw(st.sampled_from(range(len(self.open)))))
        each.sock.close()
        self.left.append((each.name, each.port))

    @precondition(lambda self: self.egress is not None)
    @rule()
    def fill_or_free_disk(self) -> None:
        """Fill the disk that the trail is on, or free it."""
        assert self.egress is not None
        self.egress.trail.is_full = not self.egress.trail.is_full

    @precondition(lambda self: self.egress is not None)
    @rule()
    def crash(self) -> None:
        """Lose the session: nothing that was open goes on."""
        assert self.egress is not None
        self.egress.trail.is_full = False
        self.egress.link.close()
        self.egress.wait_ended()
        assert all(_is_over(each.sock) for each in self.open)
        self.leave()

    @precondition(lambda self: self.egress is None)
    @rule()
    def start_again(self) -> None:
        """Start again under the same rules."""
        self.start()

    @invariant()
    def nothing_without_a_permission(self) -> None:
        """Each dial has a permission of its own on record, and nothing else was ever looked up or dialled."""
        connections = [each for trail in self.trails for each in trail.of(Connection)]
        permitted = [each for each in connections if each.decision.is_allowed]
        assert len(self.internet.dials) <= len(permitted)
        assert {place for place, _ in self.internet.dials} <= set(ADDRESSES.values())
        known = {each.event for each in permitted}
        for trail in self.trails:
            assert {each.event for each in trail.of(Established)} <= known

    @precondition(lambda self: self.egress is None)
    @invariant()
    def every_end_is_on_record(self) -> None:
        """After egress has ended, each connection has one end on record."""
        decided = {each.event for trail in self.trails for each in trail.of(Connection)}
        ended = [each.event for trail in self.trails for each in trail.of(Closed)]
        assert sorted(ended) == sorted(decided)


def _is_over(sock: socket.socket) -> bool:
    """Whether a connection ends, by a reset or regularly, without a byte more than was under way."""
    with suppress(ConnectionError):
        while sock.recv(65536):
            continue
    return True


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=25, stateful_step_count=20, deadline=None, database=None)
