"""Records put together as the rows that people read."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from sandhold.model.event import Dropped, EventId, GenerationSwitched, Repeated, SessionStarted, SessionStopped, Why
from sandhold.model.rule import Effect, Generation
from sandhold.store.encoding import FIRST_PREVIOUS, Envelope, encode_line
from sandhold.store.records import decode_record
from sandhold.store.summary import LiveRows, RowKind, Wanted, newest_rows, unclosed
from tests.unit.store.samples import ALLOWED, DENIED, NOON, closed, connection, established, lookup, request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandhold.model.event import Event
    from sandhold.store.records import Record
    from sandhold.store.summary import Row

ALL = Wanted()
STARTED = SessionStarted(EventId("S"), "ada", "shell", "namespaces", "host", Generation(7), "0.1.0")


def records(events: Sequence[Event], session: str = "s1") -> list[Record]:
    """The events as records, one second apart."""
    lines = [
        encode_line(Envelope(seq, NOON + seq, seq, "lab", session), event, FIRST_PREVIOUS)[0]
        for seq, event in enumerate(events, start=1)
    ]
    return [decode_record(line[:-1]) for line in lines]


def live(events: Sequence[Event], wanted: Wanted = ALL) -> tuple[list[str], list[str]]:
    """The rows that come while the events are fed one by one, and those that are open at the end."""
    rows = LiveRows(wanted)
    ready = [brief(row) for record in records(events) for row in rows.feed(record)]
    return ready, [brief(row) for row in rows.open_rows()]


def page(events: Sequence[Event], wanted: Wanted = ALL, limit: int | None = None) -> list[str]:
    """The rows of a trail that is read backwards."""
    return [brief(row) for row in newest_rows(reversed(records(events)), wanted, limit).rows]


def brief(row: Row) -> str:
    status = "-" if row.status is None else row.status
    verb = "ALLOWED" if row.effect is Effect.ALLOW else "BLOCKED"
    return f"{verb} {row.event} {row.host} {status}{' open' if row.is_open else ''}"


DROPPED = Dropped(EventId("D"), "udp", IPv4Address("203.0.113.9"), 53, 4)
UNNAMED = replace(connection("E1"), destination=None, claims=(), detail="no server name")
NOTHING: list[str] = []

STORIES: dict[str, tuple[list[Event], list[str], list[str], list[str]]] = {
    "a denied connection is a row at once": (
        [connection("E1")],
        ["BLOCKED E1 example.com -"],
        NOTHING,
        ["BLOCKED E1 example.com -"],
    ),
    "a permission that is taken back is a denial": (
        [connection("E1", ALLOWED), connection("E1"), closed("E1", None, Why.REFUSED)],
        ["BLOCKED E1 example.com -"],
        NOTHING,
        ["BLOCKED E1 example.com -"],
    ),
    "its end adds nothing": (
        [connection("E1"), closed("E1", None, Why.REFUSED)],
        ["BLOCKED E1 example.com -"],
        NOTHING,
        ["BLOCKED E1 example.com -"],
    ),
    "an allowed connection waits for its answer": (
        [connection("E1", ALLOWED)],
        NOTHING,
        ["ALLOWED E1 example.com - open"],
        ["ALLOWED E1 example.com - open"],
    ),
    "a tunnel is a row when it is established": (
        [connection("E1", ALLOWED), established("E1")],
        ["ALLOWED E1 example.com 200 open"],
        NOTHING,
        ["ALLOWED E1 example.com 200 open"],
    ),
    "and once only": (
        [connection("E1", ALLOWED), established("E1"), closed("E1", None)],
        ["ALLOWED E1 example.com 200 open"],
        NOTHING,
        ["ALLOWED E1 example.com 200"],
    ),
    "what ended without an answer is a row then": (
        [connection("E1", ALLOWED), closed("E1", 502, Why.UPSTREAM_UNREACHABLE)],
        ["ALLOWED E1 example.com 502"],
        NOTHING,
        ["ALLOWED E1 example.com 502"],
    ),
    "requests stand in for their connection": (
        [
            connection("E1", ALLOWED),
            request("R1", "E1"),
            established("R1", 404),
            closed("R1", 404),
            request("R2", "E1", DENIED),
            closed("R2", None, Why.REFUSED),
            closed("E1", None),
        ],
        ["ALLOWED R1 example.com 404 open", "BLOCKED R2 example.com -"],
        NOTHING,
        ["ALLOWED R1 example.com 404", "BLOCKED R2 example.com -"],
    ),
    "connections that overlap keep to themselves": (
        [
            connection("E1", ALLOWED),
            connection("E2", ALLOWED),
            established("E2"),
            connection("E3"),
            established("E1", None),
            closed("E2"),
        ],
        ["ALLOWED E2 example.com 200 open", "BLOCKED E3 example.com -", "ALLOWED E1 example.com - open"],
        NOTHING,
        ["ALLOWED E1 example.com - open", "ALLOWED E2 example.com 200", "BLOCKED E3 example.com -"],
    ),
    "dropped packets are blocked": (
        [DROPPED],
        ["BLOCKED D 203.0.113.9 -"],
        NOTHING,
        ["BLOCKED D 203.0.113.9 -"],
    ),
    "packets that are only counted have no address": (
        [replace(DROPPED, protocol="icmp", address=None, port=None)],
        ["BLOCKED D - -"],
        NOTHING,
        ["BLOCKED D - -"],
    ),
    "a connection that named nothing shows the address it dialled": (
        [UNNAMED],
        ["BLOCKED E1 198.18.0.1 -"],
        NOTHING,
        ["BLOCKED E1 198.18.0.1 -"],
    ),
    "lookups and events of the session are no rows": (
        [STARTED, lookup("L"), GenerationSwitched(EventId("G"), Generation(1), Generation(2), 1)],
        NOTHING,
        NOTHING,
        NOTHING,
    ),
    "an end without a beginning is no row": ([established("E1"), closed("E1")], NOTHING, NOTHING, NOTHING),
}


@pytest.mark.parametrize(("events", "ready", "still_open", "paged"), STORIES.values(), ids=STORIES.keys())
def test_rows(events: list[Event], ready: list[str], still_open: list[str], paged: list[str]) -> None:
    """The live view and the page tell one story."""
    assert live(events) == (ready, still_open)
    assert page(events) == paged


def test_row_has_all_that_is_known() -> None:
    """A row has port, method, path, bytes, duration, rule and generation of its records."""
    events: list[Event] = [connection("E1", ALLOWED), request("R1", "E1"), established("R1", 404), closed("R1", 404)]
    (row,) = newest_rows(reversed(records(events)), ALL).rows
    assert (row.kind, row.method, row.path, row.port, row.status) == (RowKind.REQUEST, "GET", "/simple/", 443, 404)
    assert (row.bytes_up, row.bytes_down, row.duration_s, row.why) == (120, 4096, 0.25, "done")
    assert (row.because, row.generation, row.via, row.sandbox) == ("default-example", 7, "proxy", "lab")
    assert row.time == "2026-01-01T12:00:02.000000Z"


def test_reason_stands_in_for_a_rule() -> None:
    """Where no rule decided the row says the reason; what was malformed is told too."""
    (row,) = newest_rows(records([UNNAMED]), ALL).rows
    assert (row.because, row.detail, row.port) == ("no-matching-rule", "no server name", 443)
    (row,) = newest_rows(records([DROPPED]), ALL).rows
    assert (row.protocol, row.port, row.kind) == ("udp", 53, RowKind.DROPPED)


MANY: list[Event] = [
    connection("E1"),
    connection("E2", ALLOWED, "a.test"),
    closed("E2"),
    connection("E3", host="b.a.test"),
    lookup("L", "c.test"),
    connection("E4", ALLOWED, "c.test"),
    established("E4"),
]
FILTERS: dict[str, tuple[Wanted, list[str]]] = {
    "everything": (ALL, ["E1", "E2", "E3", "E4"]),
    "what was allowed": (Wanted(effect=Effect.ALLOW), ["E2", "E4"]),
    "what was blocked": (Wanted(effect=Effect.DENY), ["E1", "E3"]),
    "one host, in any case": (Wanted(host="A.test"), ["E2"]),
    "one host, with its trailing dot": (Wanted(host="a.test."), ["E2"]),
    "hosts below one": (Wanted(host="*.a.test"), ["E3"]),
    "no such host": (Wanted(host="nosuch.test"), []),
    "from a moment on": (Wanted(since=NOON + 2), ["E2", "E3", "E4"]),
    "before a moment": (Wanted(until=NOON + 4), ["E1", "E2"]),
    "lookups too": (Wanted(has_lookups=True), ["E1", "E2", "E3", "L", "E4"]),
    "lookups of a host": (Wanted(host="c.test", has_lookups=True), ["L", "E4"]),
}


@pytest.mark.parametrize(("wanted", "events"), FILTERS.values(), ids=FILTERS.keys())
def test_filters(wanted: Wanted, events: list[str]) -> None:
    """A filter judges whole rows, so that an answer stays with its question, live and in a page alike."""
    assert [row.split()[1] for row in page(MANY, wanted)] == events
    ready, still_open = live(MANY, wanted)
    assert sorted(row.split()[1] for row in ready + still_open) == sorted(events)


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 4, 99])
def test_limit_counts_rows(limit: int) -> None:
    """A limit keeps the newest rows, in the order in which they were decided."""
    assert page(MANY, ALL, limit) == (page(MANY)[-limit:] if limit else [])


def test_reading_stops_at_the_limit() -> None:
    """No more of the trail is read than the limit needs."""
    found = iter(reversed(records(MANY)))
    newest_rows(found, ALL, 1)
    assert next(found).event == "E3"


def test_following_goes_on_where_the_page_ends() -> None:
    """What was still waiting when the page was read is a row when its answer comes: nothing twice, nothing missing."""
    events = [*MANY, connection("E5", ALLOWED), connection("E6", ALLOWED), closed("E6"), closed("E4"), closed("E5")]
    whole = records(events)
    for split in range(len(whole) + 1):
        begun = newest_rows(reversed(whole[:split]), ALL)
        rows = LiveRows(ALL)
        shown = [row.event for row in begun.answered]
        for record in (*begun.pending, *whole[split:]):
            shown += [row.event for row in rows.feed(record)]
        assert sorted(shown) == ["E1", "E2", "E3", "E4", "E5", "E6"]


ADDRESSES = {
    "an IPv6 address in brackets": ("2001:db8::1", "[2001:DB8:0::1]"),
    "the user's machine by another name": ("localhost", "127.0.0.1"),
    "an IPv4 address written as IPv6": ("203.0.113.7", "::ffff:203.0.113.7"),
}


@pytest.mark.parametrize(("host", "asked"), ADDRESSES.values(), ids=ADDRESSES.keys())
def test_filter_takes_every_spelling_of_a_host(host: str, asked: str) -> None:
    """A host is found by whatever text a rule could name it with."""
    assert page([connection("E1", host=host), connection("E2")], Wanted(host=asked))[0].startswith("BLOCKED E1")
    assert len(page([connection("E1", host=host), connection("E2")], Wanted(host=asked))) == 1


def test_hostile_text_is_printable() -> None:
    """A host is printable in a row, also when the trail was written by somebody else."""
    line = '{"v":1,"kind":"connection","decision":"deny","host":"\\u001b[2J\\u202ex"}'
    (row,) = newest_rows([decode_record(line.encode())], ALL).rows
    assert row.host == "\\u{1b}[2J\\u{202e}x"


def test_unclosed() -> None:
    """What a killed session left open is what it allowed and never closed, itself and nobody else."""
    own: list[Event] = [
        STARTED,
        connection("E1", ALLOWED),
        connection("E2", ALLOWED),
        request("R1", "E2"),
        connection("E3"),
        closed("E1"),
        established("R1"),
    ]
    earlier = records([STARTED, connection("E0", ALLOWED)], "s0")
    same_name_earlier = records([connection("E9", ALLOWED)])
    trail = [*same_name_earlier, *earlier, *records(own), *records([connection("E7", ALLOWED)], "s2")]
    assert unclosed(reversed(trail), "s1") == ("E2", "R1")
    assert unclosed(reversed(records([*own, SessionStopped(EventId("S2"), "lost")])), "nosuch") == ()


def test_denials_that_were_counted() -> None:
    """Counted denials are a blocked row with their number; counted lookups are one for those who ask for lookups."""
    events = [
        Repeated(EventId("R1"), "connection", "evil.test", 443, DENIED, 1234, NOON, NOON + 1),
        Repeated(EventId("R2"), "lookup", None, None, DENIED, 99, NOON, NOON + 1, is_mixed=True),
    ]
    (row,) = newest_rows(reversed(records(events)), ALL).rows
    assert (row.kind, row.effect, row.host, row.port, row.attempts) == (
        RowKind.REPEATED,
        Effect.DENY,
        "evil.test",
        443,
        1234,
    )
    assert (row.because, row.is_open) == ("no-matching-rule", False)
    assert len(newest_rows(reversed(records(events)), Wanted(has_lookups=True)).rows) == 2
    assert len(live(events)[0]) == 1
