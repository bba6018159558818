"""The disk of the trail, or of everything, is full or cannot be written: nothing passes, nothing is half done, and it
recovers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from sandhold.paths import Paths
from sandhold.session.policies import apply_now
from tests.faults.test_kills import HOLDING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.conftest import Lab

DISK = "512k"
LARGER_DISK = "8m"
TRY = (
    "import socket, sys\n"
    "try:\n"
    "    sock = socket.create_connection(('host.docker.internal', int(sys.argv[1])), 60)\n"
    "    sock.sendall(b'\\0hello')\n"
    "    print('answered' if sock.recv(6) else 'ended')\n"
    "except ConnectionError:\n"
    "    print('reset')\n"
)
GROW = "dd if=/dev/zero of=/opt/grown bs=4k 2>&1; wc -c </opt/grown"
FILL = """
import sys
from pathlib import Path
from sandhold.model.event import Recovered
from sandhold.session.circumstances import CLOCK
from sandhold.store.audit import Trail
from sandhold.store.event_ids import new_event_id

trail = Path(sys.argv[1])
with (trail.parent / "ballast").open("wb", buffering=0) as ballast:
    try:
        while ballast.write(b"x" * 4096):
            pass
    except OSError:
        pass
with Trail.open(trail, "lab", "-", CLOCK) as filled:  # its last page has room left
    try:
        while True:
            filled.append([Recovered(new_event_id(CLOCK.now()), 0)])
    except OSError:
        pass
"""


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A lab whose trails are on a disk of their own; commands run where that is mounted."""

    lab: Lab
    prefix: tuple[str, ...]

    def run(self, *argv: str) -> None:
        """Run a program where the disk is mounted."""
        subprocess.run([*self.prefix, *argv], check=True, timeout=60)

    def fill(self) -> None:
        """Fill it to the last byte."""
        self.run(sys.executable, "-c", FILL, str(self.lab.trail))

    def free(self) -> None:
        """Make room."""
        self.run("rm", str(self.lab.trail.parent / "ballast"))

    def records(self) -> list[dict[str, Any]]:
        """Return every record of the trail on it."""
        argv = [*self.prefix, "cat", str(self.lab.trail)]
        lines = subprocess.run(argv, check=True, timeout=60, capture_output=True, text=True).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def reach(self) -> str:
        """Return what a program inside sees of the far end."""
        return self.lab.sbx.ok("exec", "lab", "python3", "-c", TRY, str(self.lab.port)).strip()


@pytest.fixture
def disk(lab: Lab) -> Iterator[SmallDisk]:
    """Mount one for the trails."""
    with mounted(lab, lab.trail.parent, DISK) as made:
        yield made


@pytest.fixture
def only_disk(lab: Lab) -> Iterator[SmallDisk]:
    """Mount one for everything that lasts: the database, the trails, and what sandboxes write."""
    with mounted(lab, lab.sbx.state, LARGER_DISK) as made:
        yield made


@contextmanager
def mounted(lab: Lab, folder: Path, size: str) -> Iterator[SmallDisk]:
    """Mount a small disk with what was in a folder, in a mount namespace that nobody else sees."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    script = (
        f"cp -a {folder} {folder}.kept && mount -t tmpfs -o size={size} none {folder} && cp -a {folder}.kept/. {folder}"
    )
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", f"{script} && echo mounted && read end"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "mounted\n"
    prefix = ("nsenter", f"--mount=/proc/{holder.pid}/ns/mnt")
    inside = replace(lab, sbx=replace(lab.sbx, prefix=prefix))
    yield SmallDisk(inside, prefix)
    inside.sbx("rm", "-f", "lab")
    holder.communicate()


def test_nothing_passes_and_then_it_does_again(disk: SmallDisk) -> None:
    """On a full disk an allowed connection is refused and reaches nobody; with room it passes, on record."""
    disk.lab.sbx.ok("run", "-d", "lab")
    disk.fill()
    assert disk.reach() in ("reset", "ended")
    assert disk.lab.ends.accepted[disk.lab.port] == 0
    disk.free()
    assert disk.reach() == "answered"
    disk.lab.sbx.ok("stop", "lab")
    assert "unbroken" in disk.lab.sbx.ok("policy", "log", "lab", "--verify")


def test_a_start_that_cannot_be_recorded(disk: SmallDisk) -> None:
    """A start that cannot be put on record is none: nothing runs, the status says so, and with room it starts."""
    disk.fill()
    started = disk.lab.sbx("run", "-d", "lab")
    assert started.status == 125
    assert "No space left on device" in started.err
    assert disk.lab.status() == "stopped"
    disk.free()
    disk.lab.sbx.ok("run", "-d", "lab")
    assert disk.lab.status() == "running"


def test_a_change_that_cannot_be_recorded(disk: SmallDisk) -> None:
    """A change of the policy that cannot be put on record is not made."""
    disk.fill()
    for number in range(20):  # the other trail has room left in its last page
        made = disk.lab.sbx("policy", "allow", "network", f"more{number}.test")
        if made.status:
            break
    assert "so it was not made" in made.err
    assert f"more{number}.test" not in disk.lab.sbx.ok("policy", "ls", "--wide")


def test_a_switch_that_cannot_be_recorded(disk: SmallDisk) -> None:
    """A session that is told of a denial on a full disk cuts what it covers all the same, and goes on."""
    sbx, port = disk.lab.sbx, disk.lab.port
    sbx.ok("run", "-d", "lab")
    client = sbx.start("exec", "lab", "python3", "-c", HOLDING, str(port))
    assert client.stdout is not None
    assert client.stdout.readline() == "held\n"
    sbx.ok("policy", "deny", "network", f"localhost:{port}")
    disk.fill()
    folders = Paths.from_environment(sbx.environment)
    (applied,) = apply_now(folders, ["lab"])
    client.communicate(timeout=60)
    assert (applied.problem, applied.cut) == (None, 1)
    assert disk.lab.status() == "running"
    disk.free()
    assert disk.reach() in ("reset", "ended")
    assert disk.lab.ends.accepted[port] == 1
    sbx.ok("stop", "lab")
    assert "unbroken" in sbx.ok("policy", "log", "lab", "--verify")


def test_a_trail_that_cannot_be_written(disk: SmallDisk) -> None:
    """On a read-only disk nothing starts; once it can be written, it does."""
    disk.run("mount", "-o", "remount,ro", str(disk.lab.trail.parent))
    started = disk.lab.sbx("run", "-d", "lab")
    assert started.status == 125
    assert "Read-only file system" in started.err
    assert disk.lab.status() == "stopped"
    disk.run("mount", "-o", "remount,rw", str(disk.lab.trail.parent))
    disk.lab.sbx.ok("run", "-d", "lab")


CHANGES = {
    "a rule": ("policy", "deny", "network", "new.test"),
    "the posture": ("policy", "init", "deny-all"),
    "another sandbox": ("create", "--template", "host", "--name", "more", "shell", "{project}"),
}


@pytest.mark.parametrize("words", CHANGES.values(), ids=CHANGES)
def test_a_change_on_a_full_disk(only_disk: SmallDisk, words: tuple[str, ...]) -> None:
    """On a full disk nothing is changed, a command says why, what is there can be seen; with room it works."""
    sbx = only_disk.lab.sbx
    words = tuple(word.format(project=sbx.home / "project") for word in words)
    before = sbx.ok("ls"), sbx.ok("policy", "ls")
    only_disk.fill()
    done = sbx(*words)
    assert (sbx.ok("ls"), sbx.ok("policy", "ls")) == before
    assert done.status == 1
    assert "full" in done.err or "No space left" in done.err
    only_disk.free()
    sbx.ok(*words)
    assert (sbx.ok("ls"), sbx.ok("policy", "ls")) != before


def test_a_sandbox_that_fills_the_disk(only_disk: SmallDisk) -> None:
    """A sandbox that fills the disk that its trail is on gets nothing out, can be stopped, and with room it works."""
    sbx = only_disk.lab.sbx
    sbx.ok("run", "-d", "lab")
    assert "No space left" in sbx.ok("exec", "-u", "root", "lab", "sh", "-c", GROW)
    only_disk.fill()
    assert only_disk.reach() in ("reset", "ended")
    assert only_disk.lab.ends.accepted[only_disk.lab.port] == 0
    sbx.ok("exec", "-u", "root", "lab", "rm", "/opt/grown")
    only_disk.free()
    assert only_disk.reach() == "answered"
    only_disk.fill()
    stopped = sbx("stop", "lab")
    assert (stopped.status, only_disk.lab.status()) == (1, "lost")  # until there is room to record its end
    assert "cannot be recorded: No space left" in stopped.err
    only_disk.free()
    sbx.ok("run", "-d", "lab")
    assert only_disk.reach() == "answered"
    sbx.ok("stop", "lab")
    records = only_disk.records()
    permitted = [each["event"] for each in records if each["kind"] == "connection" and each["decision"] == "allow"]
    assert only_disk.lab.ends.accepted[only_disk.lab.port] == len(permitted) == 2
    assert set(permitted) <= {each["event"] for each in records if each["kind"] == "closed"}
    assert "unbroken" in sbx.ok("policy", "log", "lab", "--verify")
