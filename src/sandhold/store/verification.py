"""Whether an audit trail is whole: every record as it was written, none missing, none moved, none added.

Rules (threats L10 to L13):

1. A line is a record when it has the exact form of `encoding.py` and its own hash is right: one flipped bit breaks it.
2. Records are numbered from 1 without a gap, and each names the hash of the one before: none can be removed, repeated,
   reordered, or taken over from another trail.
3. Every record names the sandbox whose trail it is, which is the one that the first names where nobody says.
4. What stands behind the last newline is the start of a record that a crash cut short, and counts as nothing; it is
   reported as `torn_bytes`. A whole record there, or anything that is no start of one, is damage.
5. An anchor, a head that was kept when a session stopped, is still in the chain: so a trail that was cut at its end,
   put back to an older state, or written anew is found out as far as its last anchor. The database keeps every head;
   heads that are kept elsewhere (`store/heads.py`) are what somebody with the user's own rights cannot change as well.
   Two anchors that contradict each other can not both be in the chain, and are damage.

What the chain cannot show: records behind the last anchor that were cut off cleanly, and a trail and its anchors that
were both rewritten, or both put back to an older state.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from sandhold.store.database import transaction
from sandhold.store.encoding import LINE_BYTES_MAX, RECORD_VERSION
from sandhold.store.records import NO_RECORD, Head, is_torn_start, split_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from sandhold.store.database import Database


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found: `records` are those that are in order; `broken_line` counts from 1 and is None where no line is
    broken (an intact trail, or one that ends too early); `problem` is in words, None when intact."""

    records: int
    head: Head
    torn_bytes: int
    broken_line: int | None
    problem: str | None

    @property
    def is_intact(self) -> bool:
        """Whether nothing is wrong."""
        return self.problem is None


def verify(path: Path, anchors: Sequence[Head] = (), sandbox: str | None = None) -> Verification:
    """Check a whole trail, in memory of one line; one that is not there is an empty one.

    Raises:
        OSError: when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return verify_lines(iter(lambda: file.readline(LINE_BYTES_MAX + 1), b""), anchors, sandbox)
    except FileNotFoundError:
        return verify_lines((), anchors, sandbox)


def verify_lines(lines: Iterable[bytes], anchors: Sequence[Head] = (), sandbox: str | None = None) -> Verification:
    """Check the lines of a trail, each with its newline but perhaps the last."""
    wanted: dict[int, set[str]] = {}
    for anchor in anchors:
        wanted.setdefault(anchor.seq, set()).add(anchor.hash)
    last = NO_RECORD
    for line in lines:
        if not line.endswith(b"\n"):
            if not is_torn_start(line, last):
                return Verification(last.seq, last, 0, last.seq + 1, "it is neither a record nor the start of the next")
            return _finish(last, len(line), wanted)
        found = _record(line[:-1], last)
        if isinstance(found, str):
            return Verification(last.seq, last, 0, last.seq + 1, found)
        if sandbox is not None and found.sandbox != sandbox:
            return Verification(last.seq, last, 0, last.seq + 1, "it belongs to another sandbox")
        sandbox, last = found.sandbox, Head(found.seq, found.hash)
        if not wanted.pop(last.seq, set()) <= {last.hash}:
            return Verification(last.seq - 1, last, 0, last.seq, "it is not the record that was anchored")
    return _finish(last, 0, wanted)


def remember_head(database: Database, trail: str, head: Head) -> None:
    """Anchor a trail: keep its head, beside those kept before, where the trail's writer has no hand."""
    with transaction(database):
        database.execute("INSERT OR IGNORE INTO heads (trail, seq, hash) VALUES (?,?,?)", (trail, head.seq, head.hash))


def anchored_trails(database: Database) -> tuple[str, ...]:
    """Return the names of the trails that have anchors, whether they are still there or not."""
    return tuple(name for (name,) in database.execute("SELECT DISTINCT trail FROM heads ORDER BY trail"))


def remembered_heads(database: Database, trail: str) -> tuple[Head, ...]:
    """Return the anchors of a trail, oldest first."""
    rows = database.execute("SELECT seq, hash FROM heads WHERE trail = ? ORDER BY seq", (trail,))
    return tuple(Head(seq, digest) for seq, digest in rows)


class _Link(msgspec.Struct, frozen=True):
    v: int
    seq: int
    sandbox: str
    prev: str
    hash: str


_DECODER = msgspec.json.Decoder(_Link)


def _record(line: bytes, last: Head) -> _Link | str:
    """Read a line as the record that follows `last`; a text says what is wrong with it."""
    hashed, stated = split_line(line)
    if stated is None:
        return "it does not end in a hash: it is no record"
    if hashlib.sha256(hashed).hexdigest() != stated:
        return "it was changed: its hash is not that of its bytes"
    try:
        link = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "it is no record"
    if link.v != RECORD_VERSION:
        return f"it has version {link.v}, which this program does not know"
    if link.seq != last.seq + 1:
        return f"it is number {link.seq} where {last.seq + 1} belongs: records are missing, repeated or out of order"
    if link.prev != last.hash:
        return "it does not follow the record before it: one of them was replaced"
    return link


def _finish(last: Head, torn_bytes: int, anchors: dict[int, set[str]]) -> Verification:
    problem = None
    if anchors:
        problem = f"it ends at record {last.seq}, but record {max(anchors)} was anchored: its end was cut off"
    return Verification(last.seq, last, torn_bytes, None, problem)
