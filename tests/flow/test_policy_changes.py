"""Records before bytes, policy that changes under open connections, limits, and how it all ends."""

from __future__ import annotations

import errno
import inspect
import os
import re
import socket
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from sandhold.egress import first_bytes, recording, server
from sandhold.model.decision import Reason
from sandhold.model.event import Closed, Connection, Dropped, Established, Via, Why
from tests.simulators import EgressSimulation, FarEnd, Internet, echo, policy, read_all, was_reset

if TYPE_CHECKING:
    from tests.flow.conftest import MakeFarEnd, StartEgress

GOOD = "203.0.113.7"
SSH = b"SSH-2.0-x\r\n"


def open_ssh(gate: EgressSimulation) -> socket.socket:
    """An open connection that has carried bytes both ways."""
    sock = gate.dial("good.test", 22)
    sock.sendall(SSH)
    assert sock.recv(100) == SSH
    return sock


@pytest.fixture
def there(internet: Internet, far_end: MakeFarEnd) -> FarEnd:
    """An echo at `good.test` on ports 22 and 80."""
    made = far_end(echo)
    internet.host("good.test", GOOD, {22: made, 80: made})
    return made


def test_what_cannot_be_recorded_is_denied(egress: StartEgress, internet: Internet, there: FarEnd) -> None:
    """When the trail cannot be written nothing leaves, not even a look-up; the denials are on record once it can."""
    gate = egress(policy("allow good.test:22"))
    address = gate.dial("good.test", 22)
    gate.trail.is_full = True
    address.sendall(SSH)
    assert was_reset(address)
    assert there.accepted == 0
    assert internet.is_untouched
    assert gate.trail.of(Connection) == []
    gate.trail.is_full = False
    assert gate.trail.wait_for(Connection)[0].decision.reason is Reason.RECORD_UNAVAILABLE
    assert gate.trail.wait_for(Closed)[0].why is Why.REFUSED
    open_ssh(gate)


def test_end_records_survive_a_full_disk(egress: StartEgress, there: FarEnd) -> None:
    """An end that cannot be written at once is written before anything newer."""
    gate = egress(policy("allow good.test:22"))
    sock = open_ssh(gate)
    assert there.accepted == 1
    gate.trail.wait_for(Established)
    gate.trail.is_full = True
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset needs nobody's answer
    sock.close()
    refused = gate.dial("good.test", 22)
    with suppress(ConnectionError):
        refused.sendall(SSH)
        assert read_all(refused) == b""
    gate.trail.is_full = False
    first, second = gate.trail.wait_for(Connection, 2)
    ends = gate.trail.wait_for(Closed, 2)
    assert [end.event for end in ends] == [first.event, second.event]
    assert gate.trail.events.index(ends[0]) < gate.trail.events.index(second)


def test_applying_a_denial_cuts_open_connections(egress: StartEgress, there: FarEnd) -> None:
    """A policy that denies an open connection resets it, says how many, and has it on record by then."""
    gate = egress(policy("allow good.test:22", "allow other.test:22"))
    sock = open_ssh(gate)
    assert gate.apply(policy("allow other.test:22", generation=2)) == {"applied": 2, "cut": 1}
    (closed,) = gate.trail.of(Closed)
    assert closed.why is Why.CLOSED_BY_POLICY
    assert was_reset(sock)
    assert there.accepted == 1


def test_slow_lookups_do_not_keep_a_policy_from_being_read(
    egress: StartEgress, internet: Internet, there: FarEnd
) -> None:
    """A sandbox that has every look-up thread wait cannot put off a denial."""
    gate = egress(policy("allow **.slow.test:22", "allow good.test:22"))
    sock = open_ssh(gate)
    internet.is_resolving.clear()
    for number in range(20):
        gate.dial(f"n{number}.slow.test", 22).sendall(SSH)
    gate.trail.wait_for(Connection, 21)
    try:
        assert gate.apply(policy("allow **.slow.test:22", generation=2)) == {"applied": 2, "cut": 1}
    finally:
        internet.is_resolving.set()
    assert was_reset(sock)
    assert there.accepted == 1


def test_events_are_named_by_the_time_of_the_composition(egress: StartEgress, there: FarEnd) -> None:
    """Event ids are ULIDs: the clock that egress was given, and randomness that makes them different."""
    gate = egress(policy("allow good.test:22"))
    gate.clock = lambda: 1_469_918_176.385
    for _ in range(3):
        open_ssh(gate)
    ids = [event.event for event in gate.trail.wait_for(Connection, 3)]
    assert there.accepted == len(set(ids)) == 3
    assert all(re.fullmatch(r"01ARYZ6S41[0-9A-HJKMNP-TV-Z]{16}", each) for each in ids)


def test_applying_leaves_what_is_still_allowed(egress: StartEgress, there: FarEnd) -> None:
    """A connection that the new policy allows too goes on undisturbed."""
    gate = egress(policy("allow good.test:22"))
    sock = open_ssh(gate)
    assert gate.apply(policy("allow **", "deny other.test", generation=2)) == {"applied": 2, "cut": 0}
    sock.sendall(b"more")
    assert sock.recv(4) == b"more"
    assert gate.trail.of(Closed) == []
    assert there.accepted == 1


def test_applying_a_denial_of_the_address_cuts_too(egress: StartEgress, there: FarEnd) -> None:
    """A deny rule on the address that was dialled for a name cuts the connection to that name."""
    gate = egress(policy("allow good.test:22"))
    sock = open_ssh(gate)
    assert gate.apply(policy("allow good.test:22", f"deny {GOOD}", generation=2)) == {"applied": 2, "cut": 1}
    assert was_reset(sock)
    assert there.accepted == 1


def test_a_policy_that_cannot_be_read_denies_everything(egress: StartEgress, internet: Internet, there: FarEnd) -> None:
    """A reload that fails cuts what is open and refuses what comes."""
    gate = egress(policy("allow good.test:22"))
    sock = open_ssh(gate)
    gate.reload_error = OSError("as if the database were gone")
    assert gate.apply(gate.index) == {"applied": 1, "cut": 1}
    assert was_reset(sock)
    late = gate.dial("good.test", 22)
    late.sendall(SSH)
    assert was_reset(late)
    assert there.accepted == 1
    assert gate.trail.wait_for(Connection, 2)[1].decision.reason is Reason.POLICY_UNREADABLE
    assert internet.dials == [(GOOD, 22)]


def test_a_rule_that_expires_cuts_its_connections(egress: StartEgress, there: FarEnd) -> None:
    """An expiry is a change of policy that needs no command."""
    start = time.time()
    gate = egress(policy("allow good.test:22", expires_at=start + 3600))
    sock = open_ssh(gate)
    gate.clock = lambda: start + 3601
    assert was_reset(sock)
    assert gate.trail.wait_for(Closed)[0].why is Why.CLOSED_BY_POLICY
    again = gate.dial("good.test", 22)
    again.sendall(SSH)
    assert was_reset(again)
    assert there.accepted == 1


def test_a_silent_client_is_denied_in_time(
    egress: StartEgress, internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that says nothing, or only half of it, where it has to speak first is reset and on record."""
    monkeypatch.setattr("sandhold.egress.connection._WHOLE", first_bytes.Patience(0.2, 0.2))
    gate = egress(policy("allow good.test"))
    silent, half = gate.dial("good.test", 443), gate.dial("good.test", 80)
    half.sendall(b"GET / HTT")
    assert was_reset(silent)
    assert was_reset(half)
    assert internet.is_untouched
    reasons = {event.decision.reason for event in gate.trail.wait_for(Connection, 2)}
    assert reasons == {Reason.OPENING_TIMEOUT}


def test_an_endless_opening_is_denied(egress: StartEgress, internet: Internet) -> None:
    """An opening that grows past its limit is refused with a reason of its own."""
    gate = egress(policy("allow good.test"))
    sock = gate.dial("good.test", 80)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: good.test\r\n")
    with suppress(ConnectionError):
        for _ in range(50):
            sock.sendall(b"X-Filler: " + b"x" * 4000 + b"\r\n")
    sock.shutdown(1)
    assert read_all(sock).startswith(b"HTTP/1.1 431 ")
    assert internet.is_untouched
    assert gate.trail.wait_for(Connection)[0].decision.reason is Reason.OPENING_TOO_LARGE


def test_one_connection_too_many_is_reset_and_recorded(egress: StartEgress, internet: Internet, there: FarEnd) -> None:
    """At the limit new connections are reset at once; when one ends there is room again."""
    gate = egress(policy("allow good.test:22"), connections_max=1)
    first = open_ssh(gate)
    with suppress(ConnectionResetError):  # it may come before the connection is known to be made
        assert was_reset(gate.dial("good.test", 22))
    assert internet.dials == [(GOOD, 22)]
    assert gate.trail.wait_for(Connection, 2)[1].decision.reason is Reason.CONNECTION_LIMIT
    first.close()
    gate.trail.wait_for(Closed)
    open_ssh(gate)
    assert there.accepted == 2


def test_a_crash_of_ours_denies_one_connection(
    egress: StartEgress, internet: Internet, there: FarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in our own code ends that connection as denied, and no other."""
    gate = egress(policy("allow good.test:22"))
    sock = open_ssh(gate)

    def crash(*_: object) -> None:
        raise ValueError("as if we were wrong")

    with monkeypatch.context() as broken:
        broken.setattr("sandhold.egress.connection.name_destination", crash)
        assert was_reset(gate.dial("good.test", 22))
    assert internet.dials == [(GOOD, 22)]
    assert gate.trail.wait_for(Connection, 2)[1].decision.reason is Reason.INTERNAL_ERROR
    sock.sendall(b"still here")
    assert sock.recv(10) == b"still here"
    assert there.accepted == 1


def test_a_tunnel_that_cannot_be_begun_is_reset_and_on_record(
    egress: StartEgress, there: FarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the kernel does not watch another socket for us, that tunnel ends at once, on record, and no other does."""
    gate = egress(policy("allow good.test:22"))
    sock = open_ssh(gate)

    def crash(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # epoll_ctl(2): max_user_watches

    with monkeypatch.context() as broken:
        broken.setattr("sandhold.egress.relay.Relay._start", crash)
        other = gate.dial("good.test", 22)
        other.sendall(b"SSH-2.0-client\r\n")
        assert was_reset(other)
        (closed,) = gate.trail.wait_for(Closed)
    assert closed.why is Why.REFUSED
    sock.sendall(b"still here")
    assert sock.recv(10) == b"still here"
    assert there.accepted == 2


def test_a_crash_of_what_all_connections_need_ends_egress(egress: StartEgress, there: FarEnd) -> None:
    """When what watches the expiry of rules crashes, egress ends and takes every connection along, on record."""
    gate = egress(policy("allow good.test:22"))
    sock = open_ssh(gate)
    real = gate.clock

    def crash() -> float:
        if any(frame.function == "_watch_expiry" for frame in inspect.stack()):
            raise ValueError("as if we were wrong")
        return real()

    gate.clock = crash
    gate.wait_ended()
    with suppress(ConnectionResetError):
        assert sock.recv(1) == b""
    assert [each.why for each in gate.trail.of(Closed)] == [Why.SESSION_ENDED]
    assert there.accepted == 1


def test_a_crash_of_the_recorder_ends_egress(
    egress: StartEgress, internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When what records crashes nothing is dialled, and egress ends instead of denying everything from then on."""
    monkeypatch.setattr(server, "FLUSH_TIMEOUT_S", 0.5)
    gate = egress(policy("allow good.test:22"))

    def crash(*_: object) -> None:
        raise ValueError("as if we were wrong")

    monkeypatch.setattr("sandhold.egress.recording.Recorder._sift", crash)
    sock = gate.dial("192.0.2.7", 22)
    with suppress(OSError):
        sock.sendall(b"SSH-2.0-x\r\n")
        assert sock.recv(1) == b""
    gate.wait_ended()
    assert internet.is_untouched


def test_a_thousand_connections_at_once_are_all_served_and_recorded(egress: StartEgress, there: FarEnd) -> None:
    """Nothing is lost and nothing is off the record when everything comes at once."""
    gate = egress(policy("allow good.test:22"))
    gate.dial("good.test", 22).close()
    socks = [gate.dial("good.test", 22) for _ in range(1000)]
    for sock in socks:
        sock.sendall(SSH)
    for sock in socks:
        assert sock.recv(100) == SSH
        sock.close()
    ends = gate.trail.wait_for(Closed, 1001)
    decided = gate.trail.of(Connection)
    assert len({event.event for event in decided}) == len(decided) == 1001
    assert {event.event for event in ends} == {event.event for event in decided}
    assert there.accepted >= 1000
    assert {event.via for event in decided} == {Via.TRANSPARENT}


def test_stop_ends_everything_on_record(egress: StartEgress, there: FarEnd) -> None:
    """A stop cuts what is open, has the ends on record before it answers, and the program ends."""
    gate = egress(policy("allow good.test:22"))
    sock = open_ssh(gate)
    gate.say({"stop": True})
    assert gate.hear() == {"stopped": True}
    (closed,) = gate.trail.of(Closed)
    assert closed.why is Why.SESSION_ENDED
    gate.wait_ended()
    assert was_reset(sock)
    assert there.accepted == 1


def test_a_session_that_is_gone_takes_the_network_with_it(egress: StartEgress, there: FarEnd) -> None:
    """When the link closes without a word, everything ends as if it had said stop."""
    gate = egress(policy("allow good.test:22"))
    sock = open_ssh(gate)
    gate.link.close()
    gate.wait_ended()
    assert was_reset(sock)
    assert gate.trail.of(Closed)[0].why is Why.SESSION_ENDED
    with pytest.raises(ConnectionRefusedError), socket.socket() as late:
        late.connect(gate.place)
    assert there.accepted == 1


def test_a_client_that_leaves_early_is_on_record(egress: StartEgress, internet: Internet) -> None:
    """A connection that never said anything still has a decision and an end."""
    gate = egress(policy("allow good.test"))
    gate.dial("good.test", 443).close()
    (closed,) = gate.trail.wait_for(Closed)
    (connection,) = gate.trail.of(Connection)
    assert internet.is_untouched
    assert connection.event == closed.event
    assert closed.why is Why.DOWNSTREAM_GONE


def test_no_descriptor_left_is_survived(egress: StartEgress, there: FarEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    """When accept(2) fails for want of descriptors, it is tried again later, and the connection is served."""
    monkeypatch.setattr(server, "ACCEPT_PAUSE_S", 0.01)
    gate = egress(policy("allow good.test:22"))
    failing = iter([OSError(24, "Too many open files")] * 3)
    original = socket.socket._accept  # type: ignore[attr-defined]  # noqa: SLF001  what egress calls

    def accept(self: socket.socket) -> tuple[int, object]:
        if self.getsockname() == gate.place and (error := next(failing, None)) is not None:
            raise error
        accepted: tuple[int, object] = original(self)
        return accepted

    monkeypatch.setattr(socket.socket, "_accept", accept, raising=False)
    open_ssh(gate)
    assert next(failing, None) is None
    assert there.accepted == 1


def test_a_denied_http_body_reads_whole(egress: StartEgress) -> None:
    """A refusal is a whole answer with an end of its own, even where the client goes on sending."""
    gate = egress(policy("allow good.test"))
    sock = gate.dial("evil.test", 80)
    sock.sendall(b"POST / HTTP/1.1\r\nHost: evil.test\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
    sock.shutdown(1)
    assert read_all(sock).startswith(b"HTTP/1.1 403 ")


def test_nothing_leaves_before_the_record_is_durable(egress: StartEgress, internet: Internet, there: FarEnd) -> None:
    """While the trail has not said that the decision is on disk, there is neither a look-up nor a dial."""
    gate = egress(policy("allow good.test:22"))
    sock = gate.dial("good.test", 22)
    gate.trail.is_arriving.clear()
    gate.trail.is_moving.clear()
    sock.sendall(SSH)
    assert gate.trail.is_arriving.wait(20)
    assert internet.is_untouched
    gate.trail.is_moving.set()
    assert sock.recv(100) == SSH
    assert there.accepted == 1


def test_a_denial_between_decision_and_dial_stops_the_dial(
    egress: StartEgress, internet: Internet, there: FarEnd
) -> None:
    """A connection whose name is being looked up when the policy changes is never dialled."""
    gate = egress(policy("allow good.test:22"))
    internet.is_resolving.clear()
    sock = gate.dial("good.test", 22)
    sock.sendall(SSH)
    gate.trail.wait_for(Connection)
    assert gate.apply(policy("deny good.test", generation=2)) == {"applied": 2, "cut": 1}
    internet.is_resolving.set()
    assert was_reset(sock)
    assert internet.dials == []
    assert there.accepted == 0
    assert gate.trail.of(Closed)[0].why is Why.CLOSED_BY_POLICY


def test_a_request_under_way_is_cut_with_its_connection(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd
) -> None:
    """A denial cuts an HTTP request in the middle, and both ends are on record as cut by policy."""

    def talk(there: FarEnd, sock: socket.socket) -> None:
        there.heard.append(sock.recv(1000))
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        read_all(sock)

    internet.host("web.test", GOOD, {80: far_end(talk)})
    gate = egress(policy("allow web.test"))
    sock = gate.dial("web.test", 80)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: web.test\r\n\r\n")
    gate.trail.wait_for(Established)
    assert gate.apply(policy(generation=2)) == {"applied": 2, "cut": 1}
    assert [event.why for event in gate.trail.of(Closed)] == [Why.CLOSED_BY_POLICY] * 2
    assert was_reset(sock)


def test_an_idle_kept_connection_is_cut_too(egress: StartEgress, internet: Internet, far_end: MakeFarEnd) -> None:
    """A connection that waits for its next request is judged by the last one it carried."""

    def talk(_: FarEnd, sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        read_all(sock)

    internet.host("web.test", GOOD, {80: far_end(talk)})
    gate = egress(policy("allow web.test"))
    sock = gate.dial("web.test", 80)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: web.test\r\n\r\n")
    gate.trail.wait_for(Closed)
    assert gate.apply(policy(generation=2)) == {"applied": 2, "cut": 1}
    assert was_reset(sock)


def test_a_broken_trail_does_not_fill_the_memory(
    egress: StartEgress, internet: Internet, there: FarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing can be written, connections that come and go are counted, not kept."""
    monkeypatch.setattr(recording, "NOTES_WAITING_MAX", 5)
    gate = egress(policy("allow good.test"))
    gate.dial("good.test", 443).close()
    gate.trail.wait_for(Closed)
    gate.trail.is_full = True
    for _ in range(50):
        sock = gate.dial("good.test", 80)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n")
        sock.shutdown(1)
        assert read_all(sock).startswith(b"HTTP/1.1 403 ")
    assert internet.is_untouched
    gate.trail.is_full = False
    counted = gate.trail.wait_for(Dropped)[0].packets
    denied = [event for event in gate.trail.of(Connection) if event.decision.reason is Reason.RECORD_UNAVAILABLE]
    assert 0 < len(denied) < 20
    assert counted + len(denied) == 50
    assert there.accepted == 0
