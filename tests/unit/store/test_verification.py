"""Whether a trail is whole: whatever is done to it is found and named."""

from __future__ import annotations

import hashlib
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from sandhold.store.database import open_database
from sandhold.store.encoding import Envelope, encode_line
from sandhold.store.records import NO_RECORD, Head
from sandhold.store.verification import anchored_trails, remember_head, remembered_heads, verify, verify_lines
from tests.unit.store.samples import NOON, closed, connection, established, open_trail, request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Lines = list[bytes]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A trail of five records."""
    path = tmp_path / "lab.jsonl"
    with open_trail(path) as trail:
        trail.append([connection("E1"), request("E2", "E1"), established("E2"), closed("E2"), closed("E1")])
    return path


def other_trail(path: Path, sandbox: str) -> Lines:
    with open_trail(path.with_name("other.jsonl"), sandbox) as trail:
        trail.append([connection("F1"), request("F2", "F1"), established("F2"), closed("F2"), closed("F1")])
    return path.with_name("other.jsonl").read_bytes().splitlines(keepends=True)


def test_intact(path: Path) -> None:
    """A trail as it was written is intact, with its number of records and its head."""
    found = verify(path)
    assert (found.is_intact, found.records, found.broken_line, found.torn_bytes) == (True, 5, None, 0)
    assert found.head.seq == 5


def test_nothing(tmp_path: Path) -> None:
    """A trail that is not there is empty, and intact unless an anchor says that there was one."""
    path = tmp_path / "lab.jsonl"
    assert (verify(path).is_intact, verify(path).head) == (True, NO_RECORD)
    assert not verify(path, [Head(1, "a" * 64)]).is_intact
    path.write_bytes(b"")
    assert verify(path).is_intact
    assert not verify(path, [Head(1, "a" * 64)]).is_intact


def test_every_flipped_bit_is_found(path: Path) -> None:
    """Whichever single bit is flipped, the record it is in is named."""
    data = path.read_bytes()
    missed, misnamed = [], []
    for at in range(len(data)):
        line = data.count(b"\n", 0, at) + 1
        for bit in range(8):
            spoilt = data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]
            found = verify_lines(_lines(spoilt))
            if found.is_intact:
                missed.append((at, bit))
            elif found.broken_line != line:
                misnamed.append((at, bit, found.broken_line))
    assert missed == []
    assert misnamed == []


def test_every_byte_of_a_larger_sample(tmp_path: Path) -> None:
    """In a trail of every kind of record, whichever byte is another, the record it is in is named."""
    path = tmp_path / "lab.jsonl"
    with open_trail(path) as trail:
        trail.append([connection(f"E{number}", host=f"h{number}.example.com") for number in range(8)])
        trail.append([closed(f"E{number}") for number in range(8)])
    lines = path.read_bytes().splitlines(keepends=True)
    head, tail = verify_lines(lines).head, lines[-1]
    missed = []
    for number, line in enumerate(lines, start=1):
        for at in range(len(line)):
            spoilt = line[:at] + bytes([line[at] ^ (1 + at % 255)]) + line[at + 1 :]
            found = verify_lines([*lines[: number - 1], *_lines(spoilt), *lines[number : number + 1]], sandbox="lab")
            if found.is_intact or found.broken_line != number:
                missed.append((number, at, found.broken_line))
    assert missed == []
    assert (head.seq, tail) == (16, lines[15])


def _lines(data: bytes) -> Lines:
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


EDITS: dict[str, tuple[Callable[[Lines], Lines], int]] = {
    "the first record is removed": (lambda lines: lines[1:], 1),
    "a record in the middle is removed": (lambda lines: lines[:2] + lines[3:], 3),
    "two records change places": (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 2),
    "a record is repeated": (lambda lines: [*lines[:2], lines[1], *lines[2:]], 3),
    "the whole is repeated": (lambda lines: lines * 2, 6),
    "the order is reversed": (lambda lines: lines[::-1], 1),
    "an empty line is put in": (lambda lines: [*lines[:1], b"\n", *lines[1:]], 2),
    "a blank stands before a record": (lambda lines: [lines[0], b" " + lines[1], *lines[2:]], 2),
    "a blank stands behind a record": (lambda lines: [lines[0], lines[1][:-1] + b" \n", *lines[2:]], 2),
    "a carriage return is added": (lambda lines: [lines[0][:-1] + b"\r\n", *lines[1:]], 1),
    "a forged record without a hash": (lambda lines: [*lines[:1], b'{"v":1,"seq":2}\n', *lines[1:]], 2),
    "words at the end": (lambda lines: [*lines, b"hello"], 6),
    "two records on one line": (lambda lines: [lines[0][:-1] + lines[1], *lines[2:]], 1),
}


@pytest.mark.parametrize(("edit", "line"), EDITS.values(), ids=EDITS.keys())
def test_every_edit_is_found(path: Path, edit: Callable[[Lines], Lines], line: int) -> None:
    """What is removed, moved, repeated or put in is found, and the first wrong line is named."""
    path.write_bytes(b"".join(edit(path.read_bytes().splitlines(keepends=True))))
    found = verify(path)
    assert not found.is_intact
    assert found.broken_line == line
    assert found.records == line - 1


@pytest.mark.parametrize("sandbox", ["lab", "other"])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_splice_is_found(path: Path, sandbox: str, at: int) -> None:
    """Records of another trail do not fit, not even those of the same numbers and the same sandbox."""
    own = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(own[:at] + other_trail(path, sandbox)[at:]))
    assert (verify(path).is_intact, verify(path).broken_line) == (False, at + 1)


def test_record_forged_for_another_sandbox(path: Path) -> None:
    """A record that is chained correctly but names another sandbox is found."""
    last = verify(path).head
    line, _ = encode_line(Envelope(6, NOON, 1, "other", "s1"), connection("E9"), last.hash)
    path.write_bytes(path.read_bytes() + line)
    assert (verify(path).broken_line, verify(path).problem) == (6, "it belongs to another sandbox")


def test_forged_record_breaks_the_next(path: Path) -> None:
    """A record that is replaced by a well-made one with the same number breaks the record behind it."""
    lines = path.read_bytes().splitlines(keepends=True)
    previous = verify_lines(lines[:2]).head
    forged, _ = encode_line(Envelope(3, NOON, 1, "lab", "s1"), connection("E9"), previous.hash)
    path.write_bytes(b"".join([*lines[:2], forged, *lines[3:]]))
    assert verify(path).broken_line == 4


def test_cut_end_is_found_by_its_anchor(path: Path) -> None:
    """A trail cut behind its last anchor is not told apart; one cut before it is."""
    lines = path.read_bytes().splitlines(keepends=True)
    anchor = verify_lines(lines[:4]).head
    for count in range(6):
        path.write_bytes(b"".join(lines[:count]))
        found = verify(path, [anchor])
        assert found.is_intact == (count >= 4)
        assert found.broken_line is None


def test_a_trail_in_anothers_place(path: Path) -> None:
    """A whole trail of another sandbox, put in this one's place, is found though its chain is right."""
    path.write_bytes(b"".join(other_trail(path, "other")))
    assert verify(path).is_intact
    found = verify(path, sandbox="lab")
    assert (found.is_intact, found.broken_line, found.problem) == (False, 1, "it belongs to another sandbox")


def test_truncated_at_every_record(tmp_path: Path) -> None:
    """Cut off behind any record, the trail is intact by itself; by an anchor of its end, each cut is found."""
    path = tmp_path / "lab.jsonl"
    with open_trail(path) as trail:
        trail.append([connection(f"E{number}") for number in range(30)])
        anchor = trail.head
    lines = path.read_bytes().splitlines(keepends=True)
    for count in range(30):
        assert verify_lines(lines[:count]).is_intact
        found = verify_lines(lines[:count], [anchor])
        assert (found.is_intact, found.records) == (False, count)
        assert f"it ends at record {count}" in (found.problem or "")
    assert verify_lines(lines, [anchor]).is_intact


def test_anchors_that_contradict_each_other(path: Path) -> None:
    """Two anchors of the same number are both looked for: after a trail was put back and went on, one is gone."""
    whole = verify(path).head
    other = Head(whole.seq, "f" * 64)
    for anchors in ([whole, other], [other, whole]):
        assert (verify(path, anchors).is_intact, verify(path, anchors).broken_line) == (False, 5)
    assert verify(path, [whole, whole]).is_intact


def test_rewritten_trail_is_found_by_its_anchor(path: Path) -> None:
    """A trail that was written anew, chain and all, is not the one that was anchored."""
    anchors = [verify_lines(path.read_bytes().splitlines(keepends=True)[:count]).head for count in (2, 4)]
    path.write_bytes(b"".join(other_trail(path, "lab")))
    assert verify(path).is_intact
    assert (verify(path, anchors).is_intact, verify(path, anchors).broken_line) == (False, 2)


def test_torn_end_counts_as_nothing(path: Path) -> None:
    """What a crash left of the record that was being written is reported and breaks nothing."""
    data = path.read_bytes()
    start = data.rindex(b"\n", 0, -1) + 1
    for cut in range(start + 1, len(data)):
        path.write_bytes(data[:cut])
        found = verify(path)
        assert (found.is_intact, found.records, found.torn_bytes) == (True, 4, cut - start)


def test_unknown_version(path: Path) -> None:
    """A record of a version that is not known here is named, not passed over."""
    last = verify(path).head
    line, _ = encode_line(Envelope(6, NOON, 1, "lab", "s1"), connection("E9"), last.hash)
    hashed = line.replace(b'{"v":1,', b'{"v":2,').partition(b',"hash"')[0]
    ending = f',"hash":"{hashlib.sha256(hashed).hexdigest()}"}}\n'.encode()
    path.write_bytes(path.read_bytes() + hashed + ending)
    assert verify(path).broken_line == 6
    assert "version 2" in str(verify(path).problem)


def test_line_without_end(path: Path) -> None:
    """A line longer than any record is damage, and is not read into memory whole."""
    path.write_bytes(path.read_bytes() + b'{"v":1,"seq":6,' + b"x" * (9 << 20))
    assert (verify(path).is_intact, verify(path).broken_line) == (False, 6)


def test_anchors_are_kept(tmp_path: Path) -> None:
    """Heads are remembered for each trail, and none takes the place of another."""
    with closing(open_database(tmp_path / "db")) as database:
        for trail, head in [
            ("lab", Head(9, "b")),
            ("lab", Head(3, "a")),
            ("lab", Head(9, "b")),
            ("other", Head(1, "c")),
        ]:
            remember_head(database, trail, head)
        assert remembered_heads(database, "lab") == (Head(3, "a"), Head(9, "b"))
        assert remembered_heads(database, "nosuch") == ()
        assert anchored_trails(database) == ("lab", "other")
