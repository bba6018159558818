"""The audit trail: an append-only file of chained records that several processes write at once.

Rules (product contract, section 5):

1. When `append` returns, its records are on disk (`fdatasync`); when it raises, none of them is in the file, and
   nobody may act as if it were.
2. Writers take turns by `flock`. Whoever holds it learns the last record again when the file is not as it left it, so
   that sequence and chain have no gap whoever wrote before.
3. Records of one `append` are one `write` to a file opened with `O_APPEND`; a short write is undone.
4. A last line without its newline was torn by a crash, and nobody was told that it is on record: it is cut off, and a
   `Recovered` record says how many bytes that were.
5. A trail that was moved away, shortened or damaged is not written to: `append` raises until a person has looked.

The format of a line is that of `store/encoding.py`. A `Trail` is used by one thread; `flock` belongs to the open file,
so a forked child opens its own.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from sandhold.linux.locks import LOCK_WAIT_S, locked
from sandhold.model.event import Recovered
from sandhold.store.encoding import Envelope, encode_line
from sandhold.store.event_ids import new_event_id
from sandhold.store.folders import PRIVATE_FILE, make_private_folder, sync_folder
from sandhold.store.records import NO_RECORD, Head, head_of_line, is_torn_start, read_last_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType

    from sandhold.model.event import Event


@dataclass(frozen=True, slots=True)
class Clock:
    """The two clocks that a record names: seconds since the epoch, and nanoseconds that never go back."""

    now: Callable[[], float]
    monotonic_ns: Callable[[], int]


class Trail:
    """One open audit trail, for one session of one sandbox."""

    def __init__(self, fd: int, path: Path, sandbox: str, session: str, clock: Clock) -> None:
        self._fd = fd
        self._path = path
        self._sandbox = sandbox
        self._session = session
        self._clock = clock
        self._head = NO_RECORD
        self._end: int | None = None
        self._torn_bytes = 0
        self._written = 0

    @classmethod
    def open(cls, path: Path, sandbox: str, session: str, clock: Clock) -> Self:
        """Open a trail, made with its folder first when it is not there; `session` names the session in each record.

        Raises:
            OSError: when it cannot be opened, or is no regular file of ours (a symbolic link is not followed).
        """
        make_private_folder(path.parent)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(path, flags, PRIVATE_FILE)
        try:
            _check_regular(fd, path)
            sync_folder(path.parent)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, path, sandbox, session, clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    @property
    def head(self) -> Head:
        """The last record this trail has appended, `NO_RECORD` before the first `append`."""
        return self._head

    @property
    def written(self) -> int:
        """How many bytes this trail, as it was opened here, has put on record."""
        return self._written

    def append(self, events: Sequence[Event]) -> None:
        """Put events on record, in their order and with nothing of anybody else between them.

        Blocks for the length of a write and a sync, at most `LOCK_WAIT_S` longer for other writers.

        Raises:
            OSError: when they are not on record: the disk is full or failing, the wait for the lock ended
                (`TimeoutError`), or the trail was tampered with. The trail can be used again.
        """
        if self._fd < 0:
            raise OSError(errno.EBADF, "the audit trail is closed", str(self._path))
        if not events:
            return
        with locked(self._fd, LOCK_WAIT_S):
            size = self._learn_tail()
            if self._torn_bytes:
                events = (Recovered(new_event_id(self._clock.now()), self._torn_bytes), *events)
            lines, head = self._encode(events)
            self._write(lines, size)
            self._head, self._end, self._torn_bytes = head, size + len(lines), 0
            self._written += len(lines)

    def _learn_tail(self) -> int:
        """Bring `_head` up to date and cut off a torn line; returns the size of the file."""
        size = self._checked_size()
        if size == self._end:
            return size
        line, end = read_last_line(self._fd, size)
        if line is None:
            self._head = NO_RECORD
        else:
            head = head_of_line(line)
            if head is None:
                raise OSError(errno.EBADMSG, "the last record of the audit trail is damaged", str(self._path))
            self._head = head
        if end < size:
            if not is_torn_start(os.pread(self._fd, size - end, end), self._head):
                raise OSError(errno.EBADMSG, "the audit trail ends in something that is no record", str(self._path))
            os.ftruncate(self._fd, end)
            self._torn_bytes += size - end
        self._end = end
        return end

    def _checked_size(self) -> int:
        opened = os.fstat(self._fd)
        named = self._path.lstat()
        if (opened.st_dev, opened.st_ino) != (named.st_dev, named.st_ino):
            raise OSError(errno.ESTALE, "the audit trail was replaced while it was in use", str(self._path))
        if self._end is not None and opened.st_size < self._end:
            raise OSError(errno.ESTALE, "the audit trail was shortened while it was in use", str(self._path))
        return opened.st_size

    def _encode(self, events: Sequence[Event]) -> tuple[bytes, Head]:
        seq, previous = self._head.seq, self._head.hash
        lines = []
        for event in events:
            seq += 1
            envelope = Envelope(seq, self._clock.now(), self._clock.monotonic_ns(), self._sandbox, self._session)
            line, previous = encode_line(envelope, event, previous)
            lines.append(line)
        return b"".join(lines), Head(seq, previous)

    def _write(self, lines: bytes, size: int) -> None:
        try:
            _write_durably(self._fd, lines)
        except BaseException:
            # What stays behind when even this fails is torn (rule 4), or a whole record that nobody acted upon.
            with suppress(OSError):
                os.ftruncate(self._fd, size)
            raise


def _check_regular(fd: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise OSError(errno.EINVAL, "an audit trail is a regular file", str(path))


def _write_durably(fd: int, lines: bytes) -> None:
    if os.write(fd, lines) < len(lines):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fdatasync(fd)
