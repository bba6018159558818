"""Reading a trail in any direction, also while it grows."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import pytest

from sandhold.store.records import (
    NO_RECORD,
    UNREADABLE,
    Tail,
    complete_size,
    decode_record,
    head,
    head_of_line,
    read_backwards,
)
from tests.unit.store.samples import closed, connection, open_trail, request

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, count: int, session: str = "s1") -> None:
    with open_trail(path, session=session) as trail:
        trail.append([request(f"E{number}", "C", path="/" + "x" * (number % 1000)) for number in range(count)])


def test_backwards_is_the_file_reversed(tmp_path: Path) -> None:
    """Reading backwards gives every line of the file, last first, across blocks."""
    path = tmp_path / "lab.jsonl"
    write(path, 700)
    assert path.stat().st_size > 5 * (1 << 16)
    assert [record.raw for record in read_backwards(path)] == path.read_bytes().splitlines()[::-1]


def test_backwards_from_an_offset(tmp_path: Path) -> None:
    """Reading can begin at an earlier end, and shows what the trail was then."""
    path = tmp_path / "lab.jsonl"
    write(path, 3)
    end = complete_size(path)
    write(path, 2)
    assert [record.seq for record in read_backwards(path, end)] == [3, 2, 1]
    assert [record.seq for record in read_backwards(path)] == [5, 4, 3, 2, 1]


def test_last_ones_cost_no_whole_read(tmp_path: Path) -> None:
    """The newest records are found without reading the oldest."""
    path = tmp_path / "lab.jsonl"
    write(path, 2000)
    with path.open("r+b") as file:
        file.write(b"\xff" * 1000)
    assert [record.seq for record in islice(read_backwards(path), 5)] == [2000, 1999, 1998, 1997, 1996]


def test_nothing_there(tmp_path: Path) -> None:
    """A trail that is not there, or is empty, has no records."""
    path = tmp_path / "lab.jsonl"
    assert (list(read_backwards(path)), head(path), complete_size(path), Tail(path, 0).poll()) == ([], NO_RECORD, 0, [])
    path.write_bytes(b"")
    assert (list(read_backwards(path)), head(path), complete_size(path), Tail(path, 0).poll()) == ([], NO_RECORD, 0, [])


def test_torn_line_is_no_record_yet(tmp_path: Path) -> None:
    """What has no newline is not read, in any direction, until it has."""
    path = tmp_path / "lab.jsonl"
    write(path, 2)
    data = path.read_bytes()
    whole = data.index(b"\n") + 1
    for cut in range(whole, len(data)):
        path.write_bytes(data[:cut])
        assert [record.seq for record in read_backwards(path)] == [1]
        assert (head(path).seq, complete_size(path)) == (1, whole)
        assert [record.seq for record in Tail(path, 0).poll()] == [1]
    path.write_bytes(data[: whole - 1])
    assert (list(read_backwards(path)), head(path), Tail(path, 0).poll()) == ([], NO_RECORD, [])


def test_tail_gives_each_record_once(tmp_path: Path) -> None:
    """A trail that grows gives each record once, whole, however it was written."""
    path = tmp_path / "lab.jsonl"
    write(path, 2)
    data = path.read_bytes()
    tail = Tail(path, 0)
    seen = []
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        seen += tail.poll()
    assert [record.raw for record in seen] == data.splitlines()
    assert tail.poll() == []


def test_tail_catches_up_in_bounded_steps(tmp_path: Path) -> None:
    """A tail far behind reads a bounded part at a time, in order, and a line longer than that part whole."""
    path = tmp_path / "lab.jsonl"
    with open_trail(path) as trail:
        trail.append([request(f"E{number}", "C") for number in range(500)])
    long_line = b'{"detail":"' + b"x" * (1 << 17) + b'"}\n'
    with path.open("ab") as file:
        file.write(long_line)
    tail, polls = Tail(path, 0), []
    while found := tail.poll():
        polls.append(found)
    assert len(polls) > 3
    assert sum(len(record.raw) + 1 for record in polls[0]) <= 1 << 16
    records = [record for found in polls for record in found]
    assert [record.seq for record in records] == [*range(1, 501), 0]
    assert records[-1].raw == long_line[:-1]


NO_RECORDS = {
    "nothing": b"",
    "no JSON": b"hello",
    "no object": b"[]",
    "a field of another type": b'{"seq":"1"}',
    "a deep nest": b"[" * 100_000,
    "bytes that are no UTF-8": b'{"host":"\xff"}',
    "a lone surrogate": b'{"host":"\\ud800"}',
}


@pytest.mark.parametrize("line", NO_RECORDS.values(), ids=NO_RECORDS.keys())
def test_unreadable_line_is_shown_as_such(line: bytes) -> None:
    """A line that is no record does not stop a reader, and does not disappear."""
    record = decode_record(line)
    assert (record.kind, record.raw) == (UNREADABLE, line)
    assert head_of_line(line) is None


def test_unknown_fields_are_ignored() -> None:
    """A record of a later version is read as far as it is known."""
    record = decode_record(b'{"v":2,"seq":4,"kind":"connection","colour":"green"}')
    assert (record.v, record.seq, record.kind) == (2, 4, "connection")


def test_head_of_damaged_trail(tmp_path: Path) -> None:
    """A last record that was changed is no head."""
    path = tmp_path / "lab.jsonl"
    with open_trail(path) as trail:
        trail.append([connection("E1"), closed("E1")])
        assert head(path) == trail.head
    path.write_bytes(path.read_bytes().replace(b"closed", b"clozed"))
    with pytest.raises(ValueError, match="damaged"):
        head(path)
