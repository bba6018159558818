"""A sandbox that tries without end: every attempt is a record or in an exact count, and the trail stays small."""

from __future__ import annotations

import select
import socket
import threading
from typing import TYPE_CHECKING

import dns.message
import pytest

from sandhold.egress import flows, folding, recording, server
from sandhold.model.decision import Reason
from sandhold.model.event import Closed, Connection, Dropped, Established, Lookup, Repeated, Request
from tests.installation import wait_until
from tests.simulators import EgressSimulation, FarEnd, Internet, echo, policy, read_all, was_reset

if TYPE_CHECKING:
    from tests.flow.conftest import MakeFarEnd, StartEgress

ATTEMPTS = 60
FEW = 10
SSH = b"SSH-2.0-x\r\n"


@pytest.fixture
def there(internet: Internet, far_end: MakeFarEnd) -> FarEnd:
    """An echo at `good.test` on ports 22 and 80."""
    made = far_end(echo)
    internet.host("good.test", "203.0.113.7", {22: made, 80: made})
    return made


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a handful of denials have records of their own, and no more ever."""
    monkeypatch.setattr(folding, "DENIALS_BURST", FEW)
    monkeypatch.setattr(folding, "DENIALS_RATE", 0.0)


def knock(gate: EgressSimulation, host: str, count: int) -> None:
    """Try to reach a host that is denied, so often, one after the other."""
    for _ in range(count):
        assert was_reset(gate.dial(host, 22))


def counted(gate: EgressSimulation, of: str = "connection") -> int:
    """How many attempts are on record, by themselves or in a count."""
    own = {"connection": gate.trail.of(Connection), "request": gate.trail.of(Request), "lookup": gate.trail.of(Lookup)}
    denied = [event for event in own[of] if not event.decision.is_allowed]  # type: ignore[attr-defined]
    return len(denied) + sum(each.count for each in gate.trail.of(Repeated) if each.of == of)


@pytest.mark.usefixtures("few")
def test_every_attempt_counts(egress: StartEgress, internet: Internet) -> None:
    """The first denials have records, the rest are counted; whoever was refused is on record by then."""
    gate = egress(policy("deny evil.test"))
    for number in range(1, ATTEMPTS + 1):
        assert was_reset(gate.dial("evil.test", 22))
        assert counted(gate) == number
    assert internet.is_untouched
    own = len(gate.trail.of(Connection))
    assert own + len(gate.trail.of(Lookup)) == FEW
    repeated = gate.trail.of(Repeated)
    assert {(each.host, each.port, each.decision.reason, each.is_mixed) for each in repeated} == {
        ("evil.test", 22, Reason.RULE, False)
    }
    assert all(each.first <= each.last for each in repeated)
    wait_until(lambda: len(gate.trail.of(Closed)) == own, "the ends of those that have records")


@pytest.mark.usefixtures("few")
def test_a_flood_of_many_clients(egress: StartEgress) -> None:
    """Clients at once, with names of their own: each is counted exactly once, in far fewer records than attempts."""
    gate = egress(policy("deny evil.test"))
    threads = [threading.Thread(target=knock, args=(gate, f"h{number}.evil.test", 20)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted(gate) == 200


@pytest.mark.usefixtures("few")
def test_what_is_allowed_keeps_its_records(egress: StartEgress, there: FarEnd) -> None:
    """In the middle of a flood, what is allowed works and has its decision, its answer and its end on record."""
    gate = egress(policy("allow good.test:22", "deny evil.test"))
    knock(gate, "evil.test", FEW * 2)
    sock = gate.dial("good.test", 22)
    sock.sendall(SSH)
    assert sock.recv(100) == SSH
    sock.close()
    (allowed,) = [event for event in gate.trail.of(Connection) if event.decision.is_allowed]
    assert there.accepted == 1
    wait_until(lambda: allowed.event in {each.event for each in gate.trail.of(Closed)}, "its end")
    assert [each.event for each in gate.trail.of(Established)] == [allowed.event]


@pytest.mark.usefixtures("few")
def test_requests_are_counted_as_requests(egress: StartEgress) -> None:
    """A denied request that is counted is answered as any other, and its connection is not counted beside it."""
    gate = egress(policy("deny evil.test"))
    for _ in range(FEW * 3):
        sock = gate.dial("evil.test", 80)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n")
        assert b"x-sbx-decision: denied" in read_all(sock)
    assert counted(gate, "request") == FEW * 3
    assert {each.of for each in gate.trail.of(Repeated)} == {"request"}


@pytest.mark.usefixtures("few")
def test_the_event_that_is_told_is_on_record(egress: StartEgress) -> None:
    """The event that a refusal names is that of a record, also where the denial has none of its own."""
    gate = egress(policy("deny evil.test"))
    told = []
    for _ in range(FEW * 3):
        sock = gate.dial("evil.test", 80)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n")
        head = read_all(sock).partition(b"\r\n\r\n")[0]
        told.append(next(line.split()[1].decode() for line in head.lower().split(b"\r\n") if b"x-sbx-event" in line))
    own = {event.event.lower() for event in gate.trail.of(Request)}
    counts = {event.event.lower() for event in gate.trail.of(Repeated)}
    assert set(told) <= own | counts
    assert len(set(told) & counts) > 1
    assert len(set(told) & own) == len(own) > 1


@pytest.mark.usefixtures("few")
def test_names_are_counted_too(egress: StartEgress) -> None:
    """Data in the labels of names that are asked for: every question is a record or counted."""
    gate = egress(policy("deny evil.test"))
    for number in range(FEW * 5):
        gate.resolve(f"data-{number}.evil.test")
    wait_until(lambda: counted(gate, "lookup") == FEW * 5, "every question is on record")
    assert len(gate.trail.of(Lookup)) == FEW


@pytest.mark.usefixtures("few")
def test_a_long_flood_is_slowed(egress: StartEgress, monkeypatch: pytest.MonkeyPatch) -> None:
    """After enough of it, counts come at a pace, and whoever is denied waits for them: the count stays exact."""
    monkeypatch.setattr(folding, "PAUSES", ((1, 0.2), (0, 0.0)))
    gate = egress(policy("deny evil.test"))
    threads = [threading.Thread(target=knock, args=(gate, "evil.test", 4)) for _ in range(15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted(gate) == 60
    assert len(gate.trail.of(Repeated)) < 30


@pytest.mark.usefixtures("few")
def test_counts_are_written_before_the_end(egress: StartEgress, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the session stops in the middle of a pause, what was counted is on record before egress says so."""
    monkeypatch.setattr(folding, "PAUSES", ((0, 1000.0),))
    gate = egress(policy("deny evil.test"))
    knock(gate, "evil.test", FEW + 1)  # the first count is not slowed
    waiting = gate.dial("evil.test", 22)
    gate.trail.wait_for(Repeated)
    gate.resolve("last.evil.test")
    gate.say({"stop": True})
    assert gate.hear() == {"stopped": True}
    assert was_reset(waiting)
    assert counted(gate, "lookup") >= 1
    assert counted(gate) >= FEW + 1


@pytest.mark.usefixtures("few")
def test_a_count_that_cannot_be_written_denies_all_the_same(egress: StartEgress) -> None:
    """On a full disk a denial that would be counted is a denial, and is counted once there is room."""
    gate = egress(policy("deny evil.test"))
    knock(gate, "evil.test", FEW + 5)
    gate.trail.is_full = True
    knock(gate, "evil.test", 5)
    gate.trail.is_full = False
    wait_until(lambda: counted(gate) == FEW + 10, "all of them are on record")
    assert gate.trail.of(Dropped) == []


def test_a_trail_that_is_spent(egress: StartEgress, internet: Internet, there: FarEnd) -> None:
    """A session that has filled its share is denied everything, says so, and counts it in one record at a time."""
    written = [0]
    gate = egress(policy("allow good.test:22", "allow good.test:80"), written=lambda: written[0])
    before = gate.dial("good.test", 22)
    before.sendall(SSH)
    assert before.recv(100) == SSH
    dials, lookups = len(internet.dials), len(internet.lookups)
    written[0] = recording.TRAIL_BYTES_MAX
    sock = gate.dial("good.test", 80)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n")
    assert b"share of the audit trail" in read_all(sock)
    late = gate.dial("good.test", 22)
    late.sendall(SSH)
    assert was_reset(late)
    assert (len(internet.dials), len(internet.lookups), there.accepted) == (dials, lookups, 1)
    assert {each.decision.reason for each in gate.trail.wait_for(Repeated, 2)} == {Reason.TRAIL_SPENT}
    before.sendall(SSH)
    assert before.recv(100) == SSH
    _ask(gate, "other.good.test")
    wait_until(lambda: counted(gate, "lookup") == 1, "a question is counted too")


def test_openings_take_turns(egress: StartEgress, monkeypatch: pytest.MonkeyPatch) -> None:
    """While as many connections are in their opening as may be together, the next is left in the queue until one is
    through."""
    monkeypatch.setattr(server, "ACCEPT_BATCH_MAX", 1)
    monkeypatch.setattr(server, "OPENINGS_WAIT_S", 1000.0)
    monkeypatch.setattr(flows, "OPENINGS_MANY", FEW)
    gate = egress(policy("deny evil.test"))
    silent = [gate.dial_proxy() for _ in range(FEW)]
    late = gate.dial_proxy()
    late.sendall(b"GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n")
    late.settimeout(0.3)
    with pytest.raises(TimeoutError):
        late.recv(100)
    assert gate.trail.of(Request) == []
    late.settimeout(20)
    silent[0].close()
    assert late.recv(12) == b"HTTP/1.1 403"


def test_silent_connections_keep_nobody_out(egress: StartEgress) -> None:
    """Behind more silent connections than may be in their opening together, another is served all the same."""
    gate = egress(policy("deny evil.test"))
    silent = [gate.dial_proxy() for _ in range(flows.OPENINGS_MANY + FEW)]
    sock = gate.dial_proxy()
    sock.sendall(b"GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n")
    assert sock.recv(12) == b"HTTP/1.1 403"
    assert not any(select.select([each], [], [], 0)[0] for each in silent)


def _ask(gate: EgressSimulation, name: str) -> None:
    query = dns.message.make_query(name, "TXT")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        sock.sendto(query.to_wire(), gate.resolver)
        assert dns.message.from_wire(sock.recv(4096)).answer == []
