"""What of a flood is written and what is counted: nothing twice, nothing not at all."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from sandhold.egress import folding
from sandhold.egress.folding import (
    DENIALS_RATE,
    GROUPS_MAX,
    LASTING_BURST,
    LASTING_RATE,
    PAUSES,
    Counted,
    Folding,
    pause_s,
)
from sandhold.egress.recording import RECORD_TIMEOUT_S, TRAIL_BYTES_MAX
from sandhold.model.decision import Decision, Reason
from sandhold.model.destination import Destination, Source, parse_host
from sandhold.model.event import Closed, Connection, Established, EventId, Lookup, Repeated, Request, Via, Why
from sandhold.model.rule import Effect, Generation
from sandhold.store.encoding import Envelope, encode_line
from tests.simulators import new_event_id

if TYPE_CHECKING:
    from sandhold.model.event import Event

ALLOWED = Decision(Effect.ALLOW, Reason.POSTURE_ALLOWS, None, Generation(1))
DENIED = Decision(Effect.DENY, Reason.NO_RULE, None, Generation(1))
NOON = 1_767_268_800.0


def connection(event: str, decision: Decision = DENIED, host: str = "evil.test") -> Connection:
    named = Destination(parse_host(host), 443, Source.SNI)
    return Connection(EventId(event), Via.TRANSPARENT, named, (named,), (IPv4Address("198.18.0.1"), 443), decision)


def request(event: str, decision: Decision = DENIED) -> Request:
    named = Destination(parse_host("evil.test"), 80, Source.HTTP_HOST)
    return Request(EventId(event), EventId("C"), Via.PROXY, named, (named,), "GET", "/", decision)


def closed(event: str) -> Closed:
    return Closed(EventId(event), None, 0, 0, 0.0, Why.REFUSED)


@pytest.fixture
def spent(monkeypatch: pytest.MonkeyPatch) -> Folding:
    """Make a folding whose bucket is empty from the start and stays so."""
    monkeypatch.setattr(folding, "DENIALS_BURST", 0)
    monkeypatch.setattr(folding, "DENIALS_RATE", 0.0)
    return Folding(lambda: 0.0)


def sift(of: Folding, *events: Event, is_spent: bool = False) -> tuple[int, bool]:
    """How many of the events are written, and whether a denial is counted."""
    written, counted = of.sift(events, NOON, is_spent=is_spent)
    return len(written), counted is not None


def test_within_the_rate_everything_is_written() -> None:
    """As long as there are tokens, each denial and its end is a record."""
    of = Folding(lambda: 0.0)
    assert sift(of, connection("A")) == (1, False)
    assert sift(of, closed("A")) == (1, False)
    assert sift(of, connection("B"), is_spent=True) == (0, True)


def test_a_denial_without_end_has_few_records() -> None:
    """A flood at exactly the rate that is written at first, or above, is counted once the session's own share is used
    up; what is denied now and then for weeks has its records."""
    now = [0.0]
    of = Folding(lambda: now[0])
    written = 0
    for number in range(LASTING_BURST * 2):
        now[0] += 1 / DENIALS_RATE
        written += sift(of, connection(str(number)))[0]
    assert LASTING_BURST <= written <= LASTING_BURST + LASTING_RATE * now[0] + 1
    for number in range(1000):
        now[0] += 1 / LASTING_RATE
        assert sift(of, connection(f"later {number}")) == (1, False)


def test_a_flood_of_one_denial_takes_weeks_to_fill_the_trail() -> None:
    """What is written of it a day, once it has gone on for a while, fills a session's share in three weeks."""
    one, other = new_event_id(), new_event_id()
    rule = Decision(Effect.DENY, Reason.NO_RULE, None, Generation(10_000))
    own = size(replace(connection(one, rule, "a-rather-long-name.registry.example.com"), user=1000)) + size(closed(one))
    count = Repeated(other, "connection", "a-rather-long-name.registry.example.com", 443, rule, 10**6, NOON, NOON)
    a_day = 86_400 * (LASTING_RATE * own + size(count) / pause_s(10**9))
    at_first = LASTING_BURST * own + PAUSES[0][0] * size(count)
    assert at_first + 21 * a_day < TRAIL_BYTES_MAX


def test_the_longer_a_flood_the_longer_the_wait() -> None:
    """No count waits at first; none ever waits so long that whoever is denied gives its record up."""
    waits = [pause_s(counts) for counts in range(0, 200_000, 100)]
    assert (waits[0], waits == sorted(waits), len(set(waits))) == (0.0, True, len(PAUSES))
    assert max(waits) * 2 < RECORD_TIMEOUT_S


def size(event: Event) -> int:
    """How many bytes of a trail an event takes."""
    envelope = Envelope(1_000_000, NOON, 10**15, "a-sandbox-of-mine", str(new_event_id()))
    return len(encode_line(envelope, event, "0" * 64)[0])


def test_beyond_it_denials_are_counted_and_their_ends_left_out(spent: Folding) -> None:
    """A denial is counted, once with the request on its connection, and what says that it ended adds nothing."""
    assert sift(spent, connection("A")) == (0, True)
    assert sift(spent, closed("A")) == (0, False)
    assert sift(spent, connection("B"), request("R")) == (0, True)
    assert sift(spent, closed("R")) == (0, False)
    assert sift(spent, connection("D"), closed("D")) == (0, True)


def test_what_was_allowed_is_never_counted(spent: Folding) -> None:
    """A permission, its answer and its end are written whatever the rate; so is a denial that takes it back."""
    assert sift(spent, connection("A", ALLOWED)) == (1, False)
    assert sift(spent, Established(EventId("A"), 200, (), None)) == (1, False)
    assert sift(spent, connection("A", DENIED)) == (1, False)
    assert sift(spent, closed("A")) == (1, False)
    assert sift(spent, Lookup(EventId("L"), "good.test", "A", ALLOWED, asked_outside=False)) == (1, False)
    assert sift(spent, connection("X", ALLOWED), request("Y", DENIED)) == (2, False)


def test_equal_ones_are_counted_together() -> None:
    """Kind, destination, reason and generation make a group; a group has its number, its first and its last."""
    other = replace(DENIED, reason=Reason.MALFORMED)
    events: list[Connection | Request] = [
        connection("A"),
        connection("B"),
        connection("C", other),
        connection("D", host="worse.test"),
        request("R"),
        connection("E"),
    ]
    counted = [Counted(event, NOON + at) for at, event in enumerate(events)]
    found = [
        event for event in Folding(lambda: 0.0).fold(counted, GROUPS_MAX, new_event_id) if isinstance(event, Repeated)
    ]
    assert [(each.of, each.host, each.port, each.decision.reason, each.count) for each in found] == [
        ("connection", "evil.test", 443, Reason.NO_RULE, 3),
        ("connection", "evil.test", 443, Reason.MALFORMED, 1),
        ("connection", "worse.test", 443, Reason.NO_RULE, 1),
        ("request", "evil.test", 80, Reason.NO_RULE, 1),
    ]
    assert (found[0].first, found[0].last) == (NOON, NOON + 5)


@pytest.mark.parametrize("groups_max", [1, 2, GROUPS_MAX])
def test_many_destinations_are_counted_together(groups_max: int) -> None:
    """There are never more records than groups, and every denial is in one of them."""
    counted = [Counted(connection(str(number), host=f"h{number}.test"), NOON) for number in range(1000)]
    found = [
        event for event in Folding(lambda: 0.0).fold(counted, groups_max, new_event_id) if isinstance(event, Repeated)
    ]
    assert len(found) == groups_max
    assert sum(each.count for each in found) == 1000
    assert Counter(each.is_mixed for each in found) == {True: 1} | ({False: groups_max - 1} if groups_max > 1 else {})
    assert Folding(lambda: 0.0).fold([], groups_max, new_event_id) == []


def test_memory_is_bounded(spent: Folding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events whose end never comes are forgotten; their end is then a record, which harms nothing."""
    monkeypatch.setattr(folding, "REMEMBERED_MAX", 2)
    for event in ("A", "B", "C"):
        sift(spent, connection(event))
    assert sift(spent, closed("A")) == (1, False)
    assert sift(spent, closed("C")) == (0, False)


def test_a_counted_denial_knows_its_record(spent: Folding) -> None:
    """Each denial that was counted names the record that counts it, from when that is written; others name none."""
    counted = [Counted(connection(name, host=host), NOON) for name, host in (("A", "one.test"), ("B", "two.test"))]
    assert sift(spent, connection("A", host="one.test")) == (0, True)
    assert spent.counted_as(EventId("A")) is None
    one, two = spent.fold(counted, GROUPS_MAX, new_event_id)
    assert (spent.counted_as(EventId("A")), spent.counted_as(EventId("B"))) == (one.event, two.event)
    assert spent.counted_as(EventId("C")) is None
    assert sift(spent, closed("A")) == (0, False)
