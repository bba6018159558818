"""One event as one line: nothing that a sandbox says can end it, colour it, or make it long."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandhold.model.event import (
    AnchorFailed,
    Dropped,
    Established,
    EventId,
    FileChange,
    GenerationSwitched,
    PolicyChanged,
    Recovered,
    Repeated,
    SessionStarted,
    SessionStopped,
    Verified,
    WorkspaceChanged,
)
from sandhold.model.rule import Generation
from sandhold.store.encoding import FIELD_BYTES_MAX, FIRST_PREVIOUS, ITEMS_MAX, Envelope, encode_line, timestamp
from sandhold.store.records import decode_record
from tests.unit.store.samples import ALLOWED, DENIED, NOON, closed, connection, established, lookup, request

if TYPE_CHECKING:
    from sandhold.model.event import Event

ENVELOPE = Envelope(1, NOON, 42, "lab", "s1")
ENVELOPE_FIELDS = ["v", "seq", "time", "mono", "sandbox", "session", "generation", "event", "kind"]
E1 = EventId("E1")


def encoded(event: Event) -> bytes:
    return encode_line(ENVELOPE, event, FIRST_PREVIOUS)[0]


HOSTILE = {
    "a line break that would forge a record": 'x\r\n{"v":1,"seq":2}',
    "terminal colours and titles": "\x1b[2J\x1b]0;owned\x07",
    "C1 controls, which are escape sequences in one character": "\x9b31m\x90\x9d",
    "delete": "a\x7f\x7f",
    "bidirectional overrides": "\u202egro.elpmaxe\u2066\u200f",
    "line separators of Unicode": "a\u2028b\u2029c\x85d",
    "quotes and backslashes": '","decision":"allow","x":"\\\\',
    "an astral character": "\U0001f600",
    "a lone surrogate": "a\udc80b",
    "a byte of zero": "a\x00b",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_text_from_the_sandbox_stays_text(text: str) -> None:
    """A record is one line of printable ASCII and one JSON object, and the text in it comes back as it was."""
    line = encoded(replace(request("E2", "E1", path=text), method=text, detail=text))
    assert line.count(b"\n") == 1
    assert set(line[:-1]) <= set(range(0x20, 0x7F))
    pairs = json.loads(line, object_pairs_hook=list)
    assert len({name for name, _ in pairs}) == len(pairs)
    shown = text.encode("utf-8", "backslashreplace").decode()
    record = json.loads(line)
    assert (record["path"], record["method"], record["detail"], record["decision"]) == (shown, shown, shown, "allow")


LONG = {
    "one byte too many": "a" * (FIELD_BYTES_MAX + 1),
    "ten megabytes": "a" * (10 << 20),
    "characters of several bytes": "\u20ac" * FIELD_BYTES_MAX,
    "characters of four bytes, off the boundary": "x" + "\U0001f600" * FIELD_BYTES_MAX,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
def test_long_text_is_cut_and_says_so(text: str) -> None:
    """A long text is cut between characters to its limit, and its length and digest stand in for the rest."""
    found = json.loads(encoded(request("E2", "E1", path=text)))["path"]
    whole = text.encode()
    assert len(found.encode()) <= FIELD_BYTES_MAX
    kept, _, mark = found.partition("[cut: ")
    assert text.startswith(kept)
    assert mark == f"{len(whole)} bytes, sha256 {hashlib.sha256(whole).hexdigest()}]"


def test_text_at_its_limit_is_whole() -> None:
    """A text of exactly the limit is not cut."""
    text = "a" * FIELD_BYTES_MAX
    assert json.loads(encoded(request("E2", "E1", path=text)))["path"] == text


def test_query_is_not_recorded() -> None:
    """A query string does not reach the trail, even when an event holds one."""
    line = encoded(request("E2", "E1", path="/simple/?token=secret"))
    assert b"secret" not in line
    assert json.loads(line)["path"] == "/simple/"


def test_list_is_bounded() -> None:
    """A list keeps its first items and says how many more there were."""
    many = tuple(f"a{number}.test" for number in range(ITEMS_MAX + 5))
    event = PolicyChanged(E1, "reset", "ada", Generation(2), many, (), None)
    assert json.loads(encoded(event))["resources"] == [*many[:ITEMS_MAX], "[and 5 more]"]


EVENTS: dict[str, tuple[Event, int | None]] = {
    "connection": (connection("E1"), 7),
    "request": (request("E2", "E1"), 7),
    "established": (established("E1"), None),
    "closed": (closed("E1"), None),
    "lookup": (lookup("E1"), 7),
    "dropped": (Dropped(E1, "udp", IPv6Address("2001:db8::1"), 53, 3), None),
    "policy-changed": (
        PolicyChanged(E1, "allow", "ada", Generation(3), ("a.test",), ("local:1",), "lab", NOON),
        3,
    ),
    "generation-switched": (GenerationSwitched(E1, Generation(3), Generation(4), 2), 4),
    "session-started": (SessionStarted(E1, "ada", "shell", "namespaces", "host", Generation(4), "0.1.0"), 4),
    "session-stopped": (SessionStopped(E1, "stopped", "ada", "the machine ended"), None),
    "repeated": (Repeated(E1, "request", "evil.test", 80, DENIED, 1234, NOON, NOON + 0.5), 7),
    "recovered": (Recovered(E1, 17), None),
    "verified": (Verified(E1, 40, 0, 2), None),
    "workspace-changed": (
        WorkspaceChanged(E1, (FileChange("new", "/w/\x1b\n.mk", "a build runs it"),), 3, "too deep"),
        None,
    ),
    "anchor-failed": (AnchorFailed(E1, "/mnt/heads", 9, "a" * 64, "no space"), None),
}


@pytest.mark.parametrize(("kind", "event", "generation"), [(k, e, g) for k, (e, g) in EVENTS.items()], ids=EVENTS)
def test_every_kind_has_the_envelope_in_order(kind: str, event: Event, generation: int | None) -> None:
    """Each kind of event is a record with the same first and last fields, and every field of it can be read back."""
    line, digest = encode_line(ENVELOPE, event, FIRST_PREVIOUS)
    fields = json.loads(line)
    assert list(fields)[: len(ENVELOPE_FIELDS)] == ENVELOPE_FIELDS
    assert list(fields)[-2:] == ["prev", "hash"]
    assert (fields["kind"], fields["generation"], fields["time"]) == (kind, generation, "2026-01-01T12:00:00.000000Z")
    record = decode_record(line[:-1])
    assert (record.kind, record.hash, record.prev) == (kind, digest, FIRST_PREVIOUS)
    unread = [name for name, value in fields.items() if value not in (None, []) and getattr(record, name, None) is None]
    assert unread == []


def test_hash_is_of_the_bytes_before_it() -> None:
    """The hash is the SHA-256 of the line up to the comma before `hash`: `cut` and `sha256sum` can check it."""
    line, digest = encode_line(ENVELOPE, connection("E1"), FIRST_PREVIOUS)
    before, after = line.split(b',"hash":')
    assert hashlib.sha256(before).hexdigest() == digest
    assert after == f'"{digest}"}}\n'.encode()


def test_decision_is_recorded_whole() -> None:
    """A connection's record says host, claims, original destination, decision, rule and generation."""
    fields = json.loads(encoded(connection("E1", ALLOWED)))
    assert fields["host"] == "example.com"
    assert fields["claims"] == [{"source": "sni", "host": "example.com", "port": 443}]
    assert fields["original"] == {"address": "198.18.0.1", "port": 443}
    assert (fields["decision"], fields["reason"], fields["rule"]) == ("allow", "rule", "default-example")
    assert (fields["rule_name"], fields["rule_resource"]) == ("default-example", "example.com")
    fields = json.loads(encoded(replace(connection("E1", DENIED), destination=None, claims=(), original=None)))
    assert (fields["host"], fields["port"], fields["original"], fields["rule"]) == (None, None, None, None)
    assert (fields["decision"], fields["reason"]) == ("deny", "no-matching-rule")


def test_addresses_are_texts() -> None:
    """Resolved and dialled addresses stand in their canonical text."""
    address = IPv6Address("2001:db8:0:0::1")
    fields = json.loads(encoded(Established(E1, None, (address,), (address, 443), "proxy.test:3128")))
    assert fields["resolved"] == ["2001:db8::1"]
    assert fields["dialled"] == {"address": "2001:db8::1", "port": 443}
    assert fields["proxy"] == "proxy.test:3128"


@given(st.floats(min_value=-1e9, max_value=4e9))
@example(0.9999999)
@example(-0.0000001)
@example(1767268799.9999997)
def test_timestamps_are_those_of_the_library(seconds: float) -> None:
    """A time is written as `datetime` rounds and writes it, to the microsecond."""
    moment = datetime.fromtimestamp(seconds, UTC)
    assert timestamp(seconds) == moment.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def test_timestamps_sort_as_time_does() -> None:
    """A time has always the same 27 characters, in UTC."""
    assert timestamp(0.0) == "1970-01-01T00:00:00.000000Z"
    assert timestamp(NOON + 0.5) == "2026-01-01T12:00:00.500000Z"
