"""The audit trail: text from anywhere into a line, and any bytes read as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sandhold.model.event import EventId, Lookup
from sandhold.store.encoding import FIRST_PREVIOUS, LINE_BYTES_MAX, Envelope, encode_line
from sandhold.store.records import NO_RECORD, UNREADABLE, decode_record, head_of_line, is_torn_start
from sandhold.store.verification import verify_lines
from tests.fuzz.engine import Target
from tests.unit.store.samples import ALLOWED, DENIED, NOON, closed, connection, established, lookup, request

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack

    from sandhold.model.event import Event
    from tests.fuzz.engine import Check


def _chain(events: Sequence[Event]) -> tuple[bytes, ...]:
    lines, previous = [], FIRST_PREVIOUS
    for number, event in enumerate(events, 1):
        line, previous = encode_line(Envelope(number, NOON + number, number, "lab", "s1"), event, previous)
        lines.append(line)
    return tuple(lines)


_LINES: Final = _chain(
    (
        connection("E1", ALLOWED),
        request("E2", "E1", path="/ä"),
        established("E2"),
        closed("E2"),
        lookup("E3"),
        closed("E1"),
    )
)
_WORDS: Final = (
    b'"seq":', b'"prev":"', b'"hash":"', b'"kind":"', b'"v":1', b'"decision":"allow"', b'"}\n', b"\\u0000", b"null",
    b"0", b'{"v":1,"seq":', b"\n", b"1e400", b'"lab"', b"[" * 200, FIRST_PREVIOUS.encode(), _LINES[0][-67:-3],
)  # fmt: skip


def _encoding(_: ExitStack) -> Check:
    def check(data: bytes) -> str:
        text = data.decode("utf-8", "surrogateescape") if len(data) % 2 else data.decode("latin-1")
        if len(data) % 3:
            event: Event = Lookup(EventId("E1"), text, text[:20], DENIED, asked_outside=False, detail=text)
        else:
            event = request("E1", "E0", path="/" + text)
        line, digest = encode_line(Envelope(1, NOON, 1, "lab", "s1"), event, FIRST_PREVIOUS)
        assert len(line) <= LINE_BYTES_MAX
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert line[:-1].isascii()
        assert all(0x20 <= each < 0x7F for each in line[:-1]), "something that is not printable stands in a record"
        assert verify_lines([line]).head.hash == digest
        record = decode_record(line[:-1])
        assert record.kind == ("lookup" if len(data) % 3 else "request")
        assert record.seq == 1
        assert (record.rule, record.decision) == ((None, "deny") if len(data) % 3 else ("default-example", "allow"))
        return f"{record.kind} {len(line) > 4000} {'[cut:' in (record.detail or '')}"

    return check


def _record(_: ExitStack) -> Check:
    def check(data: bytes) -> str:
        line = data.partition(b"\n")[0]
        record = decode_record(line)
        assert record.raw == line
        head = head_of_line(line)
        if head is not None:
            assert line + b"\n" in _LINES, "a line that nobody wrote has a right hash"
        is_torn_start(data, NO_RECORD)
        return f"{record.kind if record.kind == UNREADABLE else 'readable'} {head is not None}"

    return check


def _verification(_: ExitStack) -> Check:
    whole = b"".join(_LINES)

    def check(data: bytes) -> str:
        lines = data.splitlines(keepends=True) if b"\r" not in data else [part + b"\n" for part in data.split(b"\n")]
        found = verify_lines(lines)
        if not found.is_intact:
            assert found.broken_line is not None
            return str(found.problem)[:50]
        kept = b"".join(lines)[: sum(map(len, lines)) - found.torn_bytes]
        assert whole.startswith(kept), "a trail that nobody wrote is called whole"
        assert found.records == kept.count(b"\n")
        return f"intact {found.records} {found.torn_bytes > 0}"

    return check


RECORDS: Final = (
    Target(
        "record_encoding",
        (
            b"example.com",
            b"\x1b[31mred\x1b[0m",
            "ä€😀".encode(),
            b'"}\n{"v":1',
            b"a" * 5000,
            b"\xed\xa0\x80",
            b"\0\x7f\x80",
        ),
        (
            b'"',
            b"\\",
            b"\n",
            b"\r",
            b"\x1b[",
            "\u2028".encode(),
            "\u202e".encode(),
            b"\\u0041",
            b"?",
            "\U0010ffff".encode(),
        ),
        _encoding,
    ),
    Target("record", _LINES, _WORDS, _record),
    Target("verification", (b"".join(_LINES), b"".join(_LINES[:3]), b"".join(_LINES)[:-20]), _WORDS, _verification),
)
