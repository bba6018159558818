"""Rows as other programs read them: OCSF events that fit the schema, and cells that no spreadsheet runs."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from sandhold.model.event import Dropped, EventId, Repeated, Why
from sandhold.store.encoding import FIRST_PREVIOUS, Envelope, encode_line
from sandhold.store.exports import COLUMNS, csv_cells, ocsf_event
from sandhold.store.records import decode_record
from sandhold.store.summary import Wanted, newest_rows
from tests.unit.store.ocsf import problems
from tests.unit.store.samples import ALLOWED, DENIED, NOON, closed, connection, established, lookup, request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandhold.model.event import Event
    from sandhold.store.summary import Row

E1 = EventId("E1")


def row(*events: Event) -> Row:
    lines = [
        encode_line(Envelope(seq, NOON, seq, "lab", "s1"), each, FIRST_PREVIOUS)[0] for seq, each in enumerate(events)
    ]
    (found,) = newest_rows([decode_record(line[:-1]) for line in reversed(lines)], Wanted(has_lookups=True)).rows
    return found


ROWS: Mapping[str, tuple[Sequence[Event], int, int]] = {
    "a connection that is open": ([connection("E1", ALLOWED), established("E1")], 4001, 1),
    "a connection that ended": ([connection("E1", ALLOWED), established("E1"), closed("E1")], 4001, 2),
    "a connection that was cut": ([connection("E1", ALLOWED), closed("E1", why=Why.CLOSED_BY_POLICY)], 4001, 3),
    "a far end that could not be reached": (
        [connection("E1", ALLOWED), closed("E1", 502, Why.UPSTREAM_TIMEOUT)],
        4001,
        4,
    ),
    "a connection that was denied": ([connection("E1", DENIED), closed("E1", None, Why.REFUSED)], 4001, 5),
    "a connection that names nothing": ([replace(connection("E1"), destination=None, original=None)], 4001, 5),
    "a connection of a known user": ([replace(connection("E1", DENIED), user=1000)], 4001, 5),
    "a connection to an address": ([replace(connection("E1"), destination=None)], 4001, 5),
    "a request that was answered": ([request("E1", "E0"), established("E1"), closed("E1")], 4002, 3),
    "a request that was denied": ([request("E1", "E0", DENIED)], 4002, 3),
    "a request to change a part": ([replace(request("E1", "E0", DENIED), method="PATCH")], 4002, 9),
    "a method that nobody knows": ([replace(request("E1", "E0", DENIED), method="BREW")], 4002, 99),
    "a lookup": ([lookup("E1")], 4003, 1),
    "packets that were dropped": ([Dropped(E1, "udp", IPv4Address("203.0.113.7"), 53, 12)], 4001, 5),
    "denials that were counted": ([Repeated(E1, "connection", "evil.test", 443, DENIED, 900, NOON, NOON + 1)], 4001, 5),
    "lookups that were counted": ([Repeated(E1, "lookup", "evil.test", None, DENIED, 9, NOON, NOON)], 4003, 1),
    "lookups of many names": ([Repeated(E1, "lookup", None, None, DENIED, 9, NOON, NOON, is_mixed=True)], 4001, 5),
    "packets that were counted only": ([Dropped(E1, "icmp", None, None, 3)], 4001, 5),
}


@pytest.mark.parametrize(("events", "kind", "activity"), ROWS.values(), ids=ROWS)
def test_events_fit_the_schema(events: Sequence[Event], kind: int, activity: int) -> None:
    """Every row is an event of its class, with all that the schema requires and nothing that it does not know."""
    event = ocsf_event(row(*events))
    assert (event["class_uid"], event["activity_id"], event["type_uid"]) == (kind, activity, kind * 100 + activity)
    assert problems(event) == []
    assert json.loads(json.dumps(event)) == event


def test_the_check_finds_what_is_missing() -> None:
    """The check above is none that always passes: each attribute that is required is missed when it is gone."""
    event = ocsf_event(row(request("E1", "E0", DENIED)))
    for name in ("activity_id", "category_uid", "metadata", "severity_id", "time", "type_uid"):
        assert f"{name} is missing" in problems({each: value for each, value in event.items() if each != name})
    assert problems({**event, "metadata": {"version": "1.6.0"}}) == ["metadata.product is missing"]
    for change in (
        {"activity_id": 98},
        {"severity_id": 7},
        {"class_name": "Another"},
        {"category_uid": 3},
        {"time": "noon"},
    ):
        assert problems(event | change)
    assert problems(event | {"src_endpoint": {"port": 1}}) == ["src_endpoint names nothing"]
    assert problems({**event, "colour": 1}) == ["colour is unknown"]


def test_what_an_event_says() -> None:
    """Host, port, rule, bytes, duration and status are where the schema has them."""
    event = ocsf_event(row(connection("E1", ALLOWED), established("E1"), closed("E1")))
    assert event["dst_endpoint"] == {"hostname": "example.com", "port": 443}
    assert event["firewall_rule"] == {"name": "default-example"}
    assert event["traffic"] == {"bytes_out": 120, "bytes_in": 4096, "bytes": 4216}
    assert (event["duration"], event["status_code"], event["disposition_id"]) == (250, "200", 1)
    assert event["time"] == int(NOON * 1000)
    assert "actor" not in event
    assert ocsf_event(row(replace(connection("E1"), user=0)))["actor"] == {"user": {"uid": "0"}}
    dropped = ocsf_event(row(Dropped(E1, "udp", IPv4Address("203.0.113.7"), 53, 12)))
    assert (dropped["count"], dropped["dst_endpoint"]) == (12, {"ip": "203.0.113.7", "port": 53})


FORMULAS = ("=1+1", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://evil.test","x")')


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula(text: str) -> None:
    """A cell from the sandbox that a spreadsheet would run begins with an apostrophe."""
    cells = dict(
        zip(COLUMNS, csv_cells(row(replace(request("E1", "E0", DENIED), path=text, method=text))), strict=True)
    )
    assert (cells["method"], cells["path"]) == (f"'{text}", f"'{text}")
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells.values())


def test_cells() -> None:
    """A cell for each column, empty where the row has nothing; numbers stay numbers."""
    cells = dict(zip(COLUMNS, csv_cells(row(connection("E1", DENIED))), strict=True))
    assert (cells["host"], cells["port"], cells["decision"], cells["because"]) == (
        "example.com",
        "443",
        "deny",
        "no-matching-rule",
    )
    assert (cells["method"], cells["status"], cells["attempts"]) == ("", "", "1")
    assert dict(zip(COLUMNS, csv_cells(row(Dropped(E1, "udp", None, None, 7))), strict=True))["attempts"] == "7"
    nameless = row(replace(connection("E1"), destination=None, original=None))
    assert dict(zip(COLUMNS, csv_cells(nameless), strict=True))["host"] == ""
