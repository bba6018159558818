"""Reading an audit trail, forwards, backwards or as it grows.

A reader takes no lock: a line counts once its newline is there, and a line that is there never changes. A line that
does not decode is read as a record of kind `unreadable`, so that `policy log` can show that something is wrong;
`verification.py` says what.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from sandhold.store.encoding import FIRST_PREVIOUS, HASH_MARK, LINE_BYTES_MAX, LINE_END, RECORD_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNREADABLE: Final = "unreadable"
_BLOCK_BYTES: Final = 1 << 16  # some 200 records: one page of `policy log` takes one read
_HASH_CHARACTERS: Final = 64
_TRAILER_BYTES: Final = len(HASH_MARK) + _HASH_CHARACTERS + len(LINE_END)


@dataclass(frozen=True, slots=True)
class Head:
    """One point of a chain: everything up to record `seq` is what hashes to `hash`."""

    seq: int
    hash: str


NO_RECORD: Final = Head(0, FIRST_PREVIOUS)


class Claim(msgspec.Struct, frozen=True):
    """One name that a connection claimed, and from where."""

    source: str
    host: str
    port: int


class Endpoint(msgspec.Struct, frozen=True):
    """An address and a port."""

    address: str
    port: int


class FileChanged(msgspec.Struct, frozen=True):
    """One file of a workspace that runs by itself and is not what it was."""

    what: str
    path: str
    why: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One record as it stands in the trail; a field that its kind does not have is None or empty.

    `raw` is the line without its newline, which is what `--json` prints. The kinds and their fields are those of
    `encoding.py`. Nothing here has been verified.
    """

    raw: bytes = b""
    v: int = 0
    seq: int = 0
    time: str = ""
    mono: int = 0
    sandbox: str = ""
    session: str = ""
    generation: int | None = None
    event: str = ""
    kind: str = UNREADABLE
    prev: str = ""
    hash: str = ""

    via: str | None = None
    connection: str | None = None
    host: str | None = None
    port: int | None = None
    source: str | None = None
    claims: tuple[Claim, ...] = ()
    original: Endpoint | None = None
    method: str | None = None
    path: str | None = None
    query_type: str | None = None
    asked_outside: bool | None = None
    protocol: str | None = None
    packets: int | None = None
    of: str | None = None
    count: int | None = None
    first: str | None = None
    last: str | None = None
    is_mixed: bool | None = None

    decision: str | None = None
    reason: str | None = None
    rule: str | None = None
    rule_name: str | None = None
    rule_resource: str | None = None
    detail: str | None = None
    user: int | None = None

    status: int | None = None
    resolved: tuple[str, ...] = ()
    dialled: Endpoint | None = None
    proxy: str | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None
    duration_s: float | None = None
    why: str | None = None

    action: str | None = None
    actor: str | None = None
    resources: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    scope: str | None = None
    expires_at: str | None = None
    before: int | None = None
    after: int | None = None
    cut: int | None = None
    agent: str | None = None
    isolation: str | None = None
    template: str | None = None
    version: str | None = None
    torn_bytes: int | None = None
    attempts: int | None = None
    escaped: int | None = None
    skipped: int | None = None
    files: tuple[FileChanged, ...] = ()
    more: int | None = None
    unseen: str | None = None
    target: str | None = None
    head_seq: int | None = None
    head_hash: str | None = None
    problem: str | None = None


_DECODER: Final = msgspec.json.Decoder(Record)


def read_backwards(path: Path, end: int | None = None) -> Iterator[Record]:
    """Yield records from the newest to the oldest, from offset `end` (the whole trail when None).

    Reads only as much as is asked for. A torn last line is no record yet. A trail that is not there has no records.
    """
    with _opened(path) as fd:
        if fd is not None:
            size = os.fstat(fd).st_size
            for line in _lines_backwards(fd, size if end is None else min(end, size)):
                yield decode_record(line)


def complete_size(path: Path) -> int:
    """Return the offset behind the last complete line: where `read_backwards` and a `Tail` meet."""
    with _opened(path) as fd:
        return 0 if fd is None else read_last_line(fd, os.fstat(fd).st_size)[1]


def head(path: Path) -> Head:
    """Return the last record's number and hash, for anchoring; `NO_RECORD` when there is none.

    Raises:
        ValueError: when the last complete line is no record.
    """
    with _opened(path) as fd:
        line = None if fd is None else read_last_line(fd, os.fstat(fd).st_size)[0]
    if line is None:
        return NO_RECORD
    found = head_of_line(line)
    if found is None:
        raise ValueError("the last record of the audit trail is damaged")
    return found


class Tail:
    """A trail as it grows; `poll` again and again, at the pace of the one who looks."""

    def __init__(self, path: Path, offset: int) -> None:
        self._path = path
        self._offset = offset

    def poll(self) -> list[Record]:
        """Return the records that were added since the last call, oldest first; at most 64 KiB of them, or one."""
        with _opened(self._path) as fd:
            if fd is None:
                return []
            data = _complete_lines(fd, self._offset)
        self._offset += len(data)
        return [decode_record(line) for line in data.split(b"\n")[:-1]]


def decode_record(line: bytes) -> Record:
    """Decode one line without its newline; a line that is no record becomes one of kind `unreadable`."""
    try:
        record = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        record = Record()
    msgspec.structs.force_setattr(record, "raw", line)
    return record


def head_of_line(line: bytes) -> Head | None:
    """Return number and hash of a line without its newline, None unless its hash is right."""
    hashed, stated = split_line(line)
    if stated is None or hashlib.sha256(hashed).hexdigest() != stated:
        return None
    record = decode_record(line)
    return None if record.kind == UNREADABLE or record.seq < 1 else Head(record.seq, stated)


def split_line(line: bytes) -> tuple[bytes, str | None]:
    """Cut a line without its newline into the bytes that are hashed and the hash; None when it has no hash there."""
    hashed, trailer = line[: 1 - _TRAILER_BYTES], line[1 - _TRAILER_BYTES :]
    stated = trailer[len(HASH_MARK) : -len(LINE_END) + 1]
    if not trailer.startswith(HASH_MARK) or not trailer.endswith(LINE_END[:-1]) or len(stated) != _HASH_CHARACTERS:
        return hashed, None
    return hashed, stated.decode("latin-1")


def is_torn_start(tail: bytes, last: Head) -> bool:
    """Whether bytes behind the last newline can be what a crash left of the record after `last`.

    A file system may leave zeros where data was still to come. A whole record with anything but its newline behind it
    is none: that newline was there, and was changed.
    """
    written = tail.rstrip(b"\0")
    start = f'{{"v":{RECORD_VERSION},"seq":{last.seq + 1},'.encode()
    is_start = written[: len(start)] == start[: len(written)]
    return is_start and len(tail) <= LINE_BYTES_MAX and split_line(tail[:-1])[1] is None


def read_last_line(fd: int, size: int) -> tuple[bytes | None, int]:
    """Read the last complete line before offset `size`, and the offset behind its newline.

    Raises:
        OSError: when it cannot be read, or is longer than any record.
    """
    at, tail = size, b""
    while at and tail.count(b"\n") < 2:
        start = max(0, at - _BLOCK_BYTES)
        tail = _read_exactly(fd, start, at - start) + tail
        at = start
        if len(tail) > 2 * LINE_BYTES_MAX + _BLOCK_BYTES:
            raise OSError("the audit trail ends in something that is no record")
    last = tail.rfind(b"\n")
    if last < 0:
        return None, 0
    return tail[tail.rfind(b"\n", 0, last) + 1 : last], at + last + 1


def _lines_backwards(fd: int, size: int) -> Iterator[bytes]:
    _, at = read_last_line(fd, size)
    rest: list[bytes] = []  # the parts of the line that begins before them, last part first
    is_last = True
    while at:
        start = max(0, at - _BLOCK_BYTES)
        parts = _read_exactly(fd, start, at - start).split(b"\n")
        at = start
        for part in reversed(parts[1:]):
            rest.append(part)
            if not is_last:
                yield b"".join(reversed(rest))
            is_last = False
            rest = []
        rest.append(parts[0])
    if not is_last:
        yield b"".join(reversed(rest))


def _complete_lines(fd: int, offset: int) -> bytes:
    for count in (_BLOCK_BYTES, LINE_BYTES_MAX):
        data = os.pread(fd, count, offset)
        end = data.rfind(b"\n") + 1
        if end or len(data) < count:
            return data[:end]
    raise OSError("the audit trail holds a line that is no record")


def _read_exactly(fd: int, offset: int, count: int) -> bytes:
    data = os.pread(fd, count, offset)
    if len(data) != count:
        raise OSError("the audit trail was shortened while it was read")
    return data


@contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)
