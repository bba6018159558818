"""The audit trail: what is acknowledged is on disk and in order, whoever writes, and however they end."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import random
import resource
import signal
from typing import TYPE_CHECKING

import pytest

from sandhold.linux import locks
from sandhold.store.audit import Clock, Trail
from sandhold.store.records import NO_RECORD, Head, head, read_backwards
from sandhold.store.verification import verify
from tests.unit.store.samples import (
    ALLOWED,
    NOON,
    PROCESS_WAIT_S,
    PROCESSES,
    closed,
    connection,
    established,
    finish,
    open_trail,
    request,
    start,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000  # linux/sched.h
NOT_PERMITTED = 77


def read(path: Path) -> list[tuple[int, str, str]]:
    """Sequence number, kind and event of each record, oldest first."""
    return [(record.seq, record.kind, record.event) for record in reversed(list(read_backwards(path)))]


def test_appends_in_order(tmp_path: Path) -> None:
    """Records have numbers from 1 without a gap, in the order given, across appends and across openings."""
    path = tmp_path / "audit" / "lab.jsonl"
    with open_trail(path) as trail:
        assert trail.head == NO_RECORD
        trail.append([connection("E1", ALLOWED), established("E1")])
        trail.append([])
        trail.append([closed("E1")])
        first = trail.head
    with open_trail(path, session="s2") as trail:
        trail.append([connection("E2")])
        assert trail.head == head(path)
    assert first.seq == 3
    assert read(path) == [
        (1, "connection", "E1"),
        (2, "established", "E1"),
        (3, "closed", "E1"),
        (4, "connection", "E2"),
    ]
    assert verify(path, [first]).is_intact
    newest = next(iter(read_backwards(path)))
    assert (newest.sandbox, newest.session, newest.time, newest.mono) == ("lab", "s2", "2026-01-01T12:00:00.000000Z", 1)


def test_file_is_private(tmp_path: Path) -> None:
    """The trail is 0600 in a folder that is 0700."""
    path = tmp_path / "audit" / "lab.jsonl"
    open_trail(path).close()
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_close_twice(tmp_path: Path) -> None:
    """A trail that is closed is closed, and closing it again does nothing; it cannot be appended to."""
    trail = open_trail(tmp_path / "lab.jsonl")
    trail.close()
    trail.close()
    with pytest.raises(OSError, match="closed"):
        trail.append([connection("E1")])


def test_link_is_not_followed(tmp_path: Path) -> None:
    """A symbolic link in place of a trail is refused, and what it points to stays as it is."""
    (tmp_path / "other").write_text("mine")
    (tmp_path / "lab.jsonl").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic"):
        open_trail(tmp_path / "lab.jsonl")
    assert (tmp_path / "other").read_text() == "mine"


def test_pipe_is_refused(tmp_path: Path) -> None:
    """Something that is no regular file is refused, and does not make the opener wait."""
    os.mkfifo(tmp_path / "lab.jsonl")
    with pytest.raises(OSError, match="regular"):
        open_trail(tmp_path / "lab.jsonl")


def test_torn_line_is_cut_off_and_recorded(tmp_path: Path) -> None:
    """Wherever a crash cut the last line, it goes, a record says how much that was, and the chain goes on."""
    path = tmp_path / "lab.jsonl"
    with open_trail(path) as trail:
        trail.append([connection("E1")])
        whole = path.stat().st_size
        trail.append([request("E2", "E1")])
    data = path.read_bytes()
    for cut in range(whole + 1, len(data)):
        path.write_bytes(data[:cut])
        with open_trail(path) as trail:
            trail.append([connection("E3")])
        newest, recovered, first = read_backwards(path)
        assert (first.event, recovered.kind, newest.event) == ("E1", "recovered", "E3")
        assert recovered.torn_bytes == cut - whole
        assert verify(path).is_intact


TORN = {
    "the very first record": b'{"v":1,"seq":1,"ti',
    "zeros that a file system left": b"\x00" * 100,
    "a start, then zeros": b'{"v":1,"se\x00\x00\x00',
}


@pytest.mark.parametrize("tail", TORN.values(), ids=TORN.keys())
def test_torn_first_line(tmp_path: Path, tail: bytes) -> None:
    """A trail that holds nothing but a torn line begins anew."""
    path = tmp_path / "lab.jsonl"
    path.write_bytes(tail)
    with open_trail(path) as trail:
        trail.append([connection("E1")])
    assert [kind for _, kind, _ in read(path)] == ["recovered", "connection"]
    assert verify(path).is_intact


def test_torn_while_open(tmp_path: Path) -> None:
    """A line that another writer left torn is cut off by the next append of a trail that was open all along."""
    path = tmp_path / "lab.jsonl"
    with open_trail(path) as trail:
        trail.append([connection("E1")])
        with path.open("ab") as other:
            other.write(b'{"v":1,"seq":2,"time":')
        trail.append([connection("E2")])
        trail.append([connection("E3")])
    assert [kind for _, kind, _ in read(path)] == ["connection", "recovered", "connection", "connection"]
    assert verify(path).is_intact


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


ADDED: dict[str, Callable[[bytes], bytes]] = {
    "a stranger's line": lambda data: data + b"hello\n",
    "a stranger's words": lambda data: data + b"hello",
    "another record begun": lambda data: data + b'{"v":1,"seq":9,',
}
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "its last record was changed": lambda data: _flip(data, len(data) - 100),
    "its last newline was changed": lambda data: _flip(data, len(data) - 1),
    **ADDED,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_trail_is_not_written_to(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """A trail whose end is damaged is left for a person to look at: appending raises and changes nothing."""
    path = tmp_path / "lab.jsonl"
    with open_trail(path) as trail:
        trail.append([connection("E1"), connection("E2")])
    spoilt = damage(path.read_bytes())
    path.write_bytes(spoilt)
    with open_trail(path) as trail, pytest.raises(OSError, match="audit trail"):
        trail.append([connection("E3")])
    assert path.read_bytes() == spoilt
    assert not verify(path).is_intact


@pytest.mark.parametrize("damage", ADDED.values(), ids=ADDED.keys())
def test_trail_damaged_while_open_is_not_written_to(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """The same holds for a trail that was open all along."""
    path = tmp_path / "lab.jsonl"
    with open_trail(path) as trail:
        trail.append([connection("E1")])
        spoilt = damage(path.read_bytes())
        path.write_bytes(spoilt)
        with pytest.raises(OSError, match="audit trail"):
            trail.append([connection("E2")])
    assert path.read_bytes() == spoilt


def test_shortened_trail_is_not_written_to(tmp_path: Path) -> None:
    """A trail that somebody shortened while it was in use denies from then on."""
    path = tmp_path / "lab.jsonl"
    with open_trail(path) as trail:
        trail.append([connection("E1")])
        path.write_bytes(b"")
        with pytest.raises(OSError, match="shortened"):
            trail.append([connection("E2")])
    assert path.read_bytes() == b""


@pytest.mark.parametrize("is_replaced", [True, False], ids=["another file in its place", "nothing in its place"])
def test_moved_trail_is_not_written_to(tmp_path: Path, *, is_replaced: bool) -> None:
    """A trail that was moved away denies: records that nobody would find are no records."""
    path = tmp_path / "lab.jsonl"
    with open_trail(path) as trail:
        trail.append([connection("E1")])
        path.rename(tmp_path / "lab.jsonl.1")
        if is_replaced:
            path.write_bytes(b"")
        with pytest.raises(OSError, match=r"replaced|No such file"):
            trail.append([connection("E2")])
    assert len(read(tmp_path / "lab.jsonl.1")) == 1


def _append_many(path: Path, name: str, count: int) -> None:
    with open_trail(path, session=name) as trail:
        for number in range(count):
            trail.append([connection(f"{name}-{number}", ALLOWED), closed(f"{name}-{number}")])


def test_writers_take_turns(tmp_path: Path) -> None:
    """Several processes that append to one trail at once make one chain without a gap, each batch in one piece."""
    path = tmp_path / "lab.jsonl"
    assert finish(*[start(_append_many, path, name, 50) for name in "abcd"]) == [0] * 4
    records = read(path)
    assert [seq for seq, _, _ in records] == list(range(1, 401))
    assert verify(path).is_intact
    assert [each[2] for each in records[0::2]] == [each[2] for each in records[1::2]]
    for name in "abcd":
        own = [event for _, kind, event in records if kind == "closed" and event.startswith(name)]
        assert own == [f"{name}-{number}" for number in range(50)]


def _append_and_tell(path: Path, told: Connection, name: str) -> None:
    with open_trail(path, session=name) as trail:
        number = 0
        while True:
            event = f"{name}-{number}"
            trail.append([connection(event, ALLOWED), request(f"{event}r", event, path="/" + "x" * 900)])
            told.send_bytes(event.encode())
            number += 1


@pytest.mark.parametrize("seed", range(8))
def test_kill_loses_nothing_acknowledged(tmp_path: Path, seed: int) -> None:
    """Whenever writers are killed, what they were told is on record is there, and the chain is whole."""
    path = tmp_path / "lab.jsonl"
    dice = random.Random(seed)
    acknowledged = set()
    for attempt in range(3):
        pipes = [PROCESSES.Pipe(duplex=False) for _ in range(2)]
        writers = [start(_append_and_tell, path, pipes[each][1], f"{attempt}{each}") for each in range(2)]
        for _, sender in pipes:
            sender.close()
        for _ in range(dice.randrange(15)):
            receiver, _ = dice.choice(pipes)
            assert receiver.poll(PROCESS_WAIT_S)
            acknowledged.add(receiver.recv_bytes().decode())
        for writer in writers:
            writer.kill()
        for receiver, _ in pipes:
            with receiver:
                acknowledged |= _rest(receiver)
        assert finish(*writers) == [-signal.SIGKILL] * 2
    with open_trail(path) as trail:
        trail.append([connection("last")])
    assert verify(path).is_intact
    assert acknowledged <= {event for _, _, event in read(path)}


def _rest(receiver: Connection) -> set[str]:
    told = set()
    try:
        while receiver.poll(PROCESS_WAIT_S):
            told.add(receiver.recv_bytes().decode())
    except EOFError:
        pass
    return told


def _fill_up(path: Path) -> None:
    """Append until the disk refuses, then make room and go on; asserts what holds all along."""
    with open_trail(path) as trail:
        acknowledged = 0
        while acknowledged < 10_000:
            try:
                trail.append([connection("E1", ALLOWED), closed("E1")])
            except OSError as error:
                assert error.errno in (errno.ENOSPC, errno.EFBIG)  # noqa: PT017 - the loop ends here, checked below
                break
            acknowledged += 2
        assert 0 < acknowledged < 10_000
        assert verify(path) == verify(path, [trail.head])
        assert (verify(path).is_intact, verify(path).records, verify(path).torn_bytes) == (True, acknowledged, 0)
        with pytest.raises(OSError, match=r"No space|File too large"):
            trail.append([connection("E2"), closed("E2")] * 100)
        _make_room(path.parent)
        trail.append([connection("E3")])
    assert verify(path).records == acknowledged + 1
    assert verify(path).is_intact


def _make_room(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    (folder / "ballast").unlink(missing_ok=True)


def _fill_up_to_limit(path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    _fill_up(path)


def test_file_size_limit(tmp_path: Path) -> None:
    """A write that stops halfway is undone: what was acknowledged stays, the rest is not there, and it works again."""
    assert finish(start(_fill_up_to_limit, tmp_path / "lab.jsonl")) == [0]


def _fill_up_small_disk(folder: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    flags = CLONE_NEWNS if os.geteuid() == 0 else CLONE_NEWNS | CLONE_NEWUSER
    if libc.unshare(flags) != 0:
        raise SystemExit(NOT_PERMITTED)
    if libc.mount(b"none", b"/", None, 0x44000, None) != 0 or libc.mount(  # MS_REC | MS_PRIVATE
        b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=96k"
    ):
        raise SystemExit(NOT_PERMITTED)
    (folder / "ballast").write_bytes(b"x" * 32_768)
    _fill_up(folder / "lab.jsonl")


def test_full_disk(tmp_path: Path) -> None:
    """On a disk that is really full the same holds, and records are written again once there is room."""
    codes = finish(start(_fill_up_small_disk, tmp_path))
    if codes == [NOT_PERMITTED]:
        pytest.skip("this host lets us mount no small file system")
    assert codes == [0]


def _hold(path: Path, told: Connection) -> None:
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        told.send_bytes(b"held")
        signal.pause()


def test_wait_for_a_stuck_writer_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that holds the lock for ever makes others fail after the limit, and its death makes way."""
    path = tmp_path / "lab.jsonl"
    monkeypatch.setattr("sandhold.store.audit.LOCK_WAIT_S", 0.05)
    assert locks.LOCK_WAIT_S > 1
    with open_trail(path) as trail:
        receiver, sender = PROCESSES.Pipe(duplex=False)
        with receiver, sender:
            holder = start(_hold, path, sender)
            assert receiver.poll(PROCESS_WAIT_S)
            with pytest.raises(TimeoutError):
                trail.append([connection("E1")])
            assert path.read_bytes() == b""
            holder.kill()
            assert finish(holder) == [-signal.SIGKILL]
        trail.append([connection("E2")])
    assert read(path) == [(1, "connection", "E2")]


def test_clock_set_back(tmp_path: Path) -> None:
    """When the host's clock is set back the numbers and the monotonic time still tell the order."""
    times = iter([NOON, NOON - 3600])
    ticks = iter([1, 2])
    path = tmp_path / "lab.jsonl"
    with Trail.open(path, "lab", "s1", Clock(lambda: next(times), lambda: next(ticks))) as trail:
        trail.append([connection("E1"), connection("E2")])
    second, first = read_backwards(path)
    assert second.time < first.time
    assert (first.seq, second.seq, first.mono, second.mono) == (1, 2, 1, 2)
    assert verify(path, [Head(1, first.hash)]).is_intact
