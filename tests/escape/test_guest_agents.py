"""Root of a guest takes the agent's own port (pidfd_getfd(2)) and speaks for it: the session believes none of it.

One sandbox for all attempts: each ends its machine, and the next one starts it again.
"""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Final

import pytest

from tests.installation import wait_until
from tests.isolation import MICROVM, microvm_lacks
from tests.load import processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.installation import Installation

pytestmark = pytest.mark.skipif(bool(microvm_lacks()), reason=microvm_lacks() or "nothing is missing")

ENDED_S: Final = 120.0  # an emulated machine that is killed on a busy host takes seconds
PATIENCE_S: Final = 20.0  # for a command that a thief keeps from the agent: any time at all would do

PORT: Final = """
import ctypes, os, select, struct, time
libc = ctypes.CDLL(None, use_errno=True)
agent = os.pidfd_open(1)
stolen = [fd for fd in (libc.syscall(438, agent, number, 0) for number in range(3, 64)) if fd >= 0]
port = next(fd for fd in stolen if "vport" in os.readlink(f"/proc/self/fd/{fd}"))
def frame(kind, command=0, payload=b"", stream=0, length=None):
    length = len(payload) if length is None else length
    return struct.pack("<BBHII", kind, stream, 0, command, length) + payload
def say(data):
    while data:
        select.select([], [port], [])
        try: data = data[os.write(port, data[:32768]):]
        except BlockingIOError: pass
WAITING, READY, STARTED, OUTPUT, EXITED, TAKEN, FAILED = 22, 16, 17, 18, 19, 20, 21
"""

ABUSES: Final[Mapping[str, str]] = {
    "garbage": "say(b'\\xff' * 100_000)",
    "a message of four gigabytes": "say(frame(OUTPUT, 1, b'x', 1, length=0xFFFFFFFF))",
    "what only the session says": "say(frame(9))",
    "ready again": "say(frame(READY))",
    "waiting for another plan": "say(frame(WAITING))",
    "a kind that there is not": "say(frame(99))",
    "a flood of starts": "say(b''.join(frame(STARTED, number, struct.pack('<I', 7)) for number in range(4096)))",
    "a flood of ends": "say(b''.join(frame(EXITED, number, b'\\0') for number in range(4096)))",
    "the end of a command that goes on": "[say(frame(EXITED, number, b'\\0')) for number in (1, 1)]",
    "output that nobody asked for": "say(b''.join(frame(OUTPUT, 4096, b'x' * 32000, 1) for _ in range(300)))",
    "taking more than there was": "say(frame(TAKEN, 1, struct.pack('<I', 1 << 31)))",
    "an early exit": "say(frame(FAILED, 0, b'bye\\n\\x1b[31m' + b'!' * 9000))",
}


@pytest.fixture(scope="module")
def lab(module_sbx: Installation, module_project: Path) -> Iterator[Installation]:
    """Create a microVM with something in it that must not be lost."""
    module_sbx.ok("create", *MICROVM.quickest, "--memory", "1g", "--name", "lab", "shell", ".", folder=module_project)
    module_sbx.ok("exec", "-u", "root", "lab", "sh", "-c", "echo kept >/opt/kept; sync")
    yield module_sbx
    module_sbx.ok("rm", "-f", "lab")


def everything(lab: Installation) -> list[int]:
    """Return every process of the running session, its own among them."""
    session = processes.parts(lab, "lab")[processes.SESSION]
    return [session, *processes.descendants(session)]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(each, id=name, marks=[] if name == "garbage" else [pytest.mark.long])
        for name, each in ABUSES.items()
    ],
)
def test_an_agent_that_says_what_it_likes(lab: Installation, script: str) -> None:
    """Whatever comes out of the agent's port that no agent says, the machine and all of its session end, the record
    says so in words that move no cursor, and the sandbox runs again with what was in it."""
    assert lab.ok("exec", "lab", "cat", "/opt/kept") == "kept\n"
    lab.ok("run", "-d", "lab")
    pids = everything(lab)
    attack = lab("exec", "-i", "-u", "root", "lab", "python3", "-", given=f"{PORT}{script}\ntime.sleep(600)\n")
    if attack.status != 0:  # a guest may say of its own command that it has ended well
        assert (attack.status, "ended by itself" in attack.err) == (125, True)
    wait_until(lambda: all(map(processes.is_gone, pids)), "everything of the session has ended", ENDED_S)
    last = lab.records("lab")[-1]
    assert (last["kind"], last["reason"]) == ("session-stopped", "cell-died")
    assert last["detail"].startswith(("the guest broke its protocol: ", "the guest gave up: bye"))
    assert last["detail"].isprintable()
    assert "unbroken" in lab.ok("policy", "log", "lab", "--verify")


THIEVES: Final[Mapping[str, str]] = {
    "swallows what it is told": "os.set_blocking(port, True)\nwhile True: os.read(port, 65536)",
    "says half of a message": "say(frame(OUTPUT, 1, b'x' * 100, 1, length=32000))\ntime.sleep(600)",
}


@pytest.mark.long
@pytest.mark.parametrize("script", THIEVES.values(), ids=THIEVES)
def test_an_agent_that_answers_nothing(lab: Installation, module_project: Path, script: str) -> None:
    """A guest that answers nothing any more keeps nobody: whoever waits is let go by `stop`, in a bounded time."""
    lab.ok("run", "-d", "lab")
    pids, session = everything(lab), lab.records("lab")[-1]["session"]
    begun = module_project / f"begun-{pids[0]}"
    code = f"{PORT}open('{begun}', 'w').close()\n{script}"
    thief = lab.start("exec", "-i", "-u", "root", "lab", "python3", "-c", code)
    wait_until(begun.exists, "it is at work; what it says itself may be lost among what it does")
    waiting = lab.start("exec", "lab", "true")
    lab.ok("stop", "lab")
    for process in (thief, waiting):
        process.communicate(timeout=PATIENCE_S)
    assert all(map(processes.is_gone, pids))
    ends = [each["reason"] for each in lab.records("lab") if each["session"] == session and "reason" in each]
    assert ends in (["stopped"], ["cell-died"])
    assert lab.ok("exec", "lab", "cat", "/opt/kept") == "kept\n"


HOST_PARTS: Final = (processes.MACHINE, processes.LINK, processes.FIRST, processes.EGRESS)


@pytest.mark.long
@pytest.mark.parametrize("part", HOST_PARTS)
def test_a_killed_part_of_a_machine(lab: Installation, part: str) -> None:
    """Whichever process of a running machine is killed, all of the session end, the next command says that it ended by
    itself, and what was synced is there."""
    lab.ok("exec", "-u", "root", "lab", "sh", "-c", f"echo '{part}' >/opt/last; sync")
    lab.ok("run", "-d", "lab")
    pids = everything(lab)
    os.kill(processes.parts(lab, "lab")[part], signal.SIGKILL)
    wait_until(lambda: all(map(processes.is_gone, pids)), "everything of the session has ended", ENDED_S)
    assert lab.records("lab")[-1]["reason"] == ("egress-died" if part == processes.EGRESS else "cell-died")
    again = lab("exec", "lab", "cat", "/opt/kept", "/opt/last")
    assert (again.status, again.out) == (0, f"kept\n{part}\n")
    assert "before this one ended by itself: " in again.err


@pytest.mark.long
def test_a_killed_session_of_a_machine(lab: Installation) -> None:
    """A session that is killed takes its machine along; the next command says so, and what was synced is there."""
    lab.ok("run", "-d", "lab")
    lab.ok("exec", "-u", "root", "lab", "sh", "-c", "echo before >/opt/last; sync")
    pids = everything(lab)
    os.kill(pids[0], signal.SIGKILL)
    wait_until(lambda: all(map(processes.is_gone, pids)), "everything of the session has ended", ENDED_S)
    again = lab("exec", "lab", "cat", "/opt/kept", "/opt/last")
    assert (again.status, again.out) == (0, "kept\nbefore\n")
    assert "before this one was killed" in again.err


BLOCK: Final = 4096
DAMAGE: Final[Mapping[str, tuple[int, int]]] = {
    "its superblock": (0, BLOCK),
    "its group descriptors": (BLOCK, BLOCK),
    "both of them": (0, 2 * BLOCK),
}


@pytest.mark.long
@pytest.mark.parametrize(("start", "size"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_disk(lab: Installation, start: int, size: int) -> None:
    """A disk whose own description was overwritten is mended inside and that is said; what was synced is there."""
    lab.ok("exec", "-u", "root", "lab", "sh", "-c", "echo before >/opt/last; sync")
    lab.ok("stop", "lab")
    (disk,) = (lab.state / "sandboxes" / "lab").rglob("disk.ext4")
    with disk.open("r+b") as file:
        file.seek(start)
        file.write(os.urandom(size))
    lab.ok("run", "-d", "lab")
    notes = json.loads(lab.ok("inspect", "lab"))["notes"]
    assert any("was damaged, and was mended" in note for note in notes)
    assert lab.ok("exec", "lab", "cat", "/opt/kept", "/opt/last") == "kept\nbefore\n"
    lab.ok("stop", "lab")


@pytest.mark.long
def test_a_disk_that_is_none_any_more(lab: Installation) -> None:
    """A disk that nothing can mend is said to be that, nothing runs, and with the disk put back all is there."""
    lab.ok("stop", "lab")
    (disk,) = (lab.state / "sandboxes" / "lab").rglob("disk.ext4")
    kept = disk.with_name("kept")
    disk.rename(kept)
    with disk.open("wb") as file:
        file.truncate(kept.stat().st_size)
    refused = lab("exec", "lab", "true")
    assert refused.status == 125
    assert "damaged beyond what `e2fsck` can mend" in refused.err
    assert "Traceback" not in lab.ok("logs", "lab")
    kept.rename(disk)
    assert lab.ok("exec", "lab", "cat", "/opt/kept") == "kept\n"
