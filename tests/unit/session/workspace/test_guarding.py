"""Whether something has to be covered again, and that looking costs no more than it may."""

from __future__ import annotations

import os
import resource
import select
import signal
import time
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest

from sandhold.linux.process import spawn_module
from sandhold.model.sandbox import Mount
from sandhold.session.workspace.guarding import LOOK_PAUSE_S, TRIES_MAX, Guarding
from sandhold.session.workspace.protection import GUARDS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sandhold.linux.process import Child

PATIENCE_S = 30.0
MODULE = "sandhold.session.workspace.guarding"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Make a file that is guarded, in a folder of its own."""
    folder = tmp_path / ".git"
    folder.mkdir()
    (folder / "config").write_text("old")
    return folder / "config"


@pytest.fixture
def said() -> list[str]:
    """Collect what is logged."""
    return []


@pytest.fixture
def guarding(config: Path, said: list[str]) -> Iterator[Guarding]:
    """Guard it, in a mount namespace that nobody can enter: its descriptor is another kind of file."""
    guards = (
        Mount(PurePosixPath(config.parent), is_read_only=False),
        Mount(PurePosixPath(config), is_read_only=True, is_file=True),
    )
    with config.open() as no_namespace, Guarding(guards, said.append) as made:
        yield made.serve((no_namespace.fileno(),))


def serve(guarding: Guarding, seconds: float, said: list[str]) -> None:
    """Serve it until it says something, at most so long."""
    until = time.monotonic() + seconds
    while (now := time.monotonic()) < until and not said:
        moments = [moment for moment in guarding.due() if moment < until]
        select.select([guarding], [], [], max(0.0, min([until, *moments]) - now))
        guarding.act()


def replace(file: Path) -> None:
    """Put a new file in its place, as git does."""
    new = file.with_name("config.lock")
    new.write_text("new")
    new.rename(file)


def test_nothing_happens(guarding: Guarding, said: list[str]) -> None:
    """Without an event there is nothing to wait for and nothing to do."""
    guarding.act()
    assert (guarding.due(), said) == ((), [])


def test_what_is_beside_it_is_nothing(guarding: Guarding, config: Path, said: list[str]) -> None:
    """Files that come and go beside a guard make us look, and do nothing else."""
    for number in range(50):
        (config.parent / f"object-{number}").touch()
        guarding.act()
    serve(guarding, LOOK_PAUSE_S * 3, said)
    assert (guarding.due(), said) == ((), [])


def test_a_flood_costs_one_look_at_a_time(guarding: Guarding, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much appears, we look once in `LOOK_PAUSE_S`, and are not woken in between."""
    looks: list[str] = []
    look = os.lstat

    def counted(path: str) -> os.stat_result:
        looks.append(path)
        return look(path)

    monkeypatch.setattr(os, "lstat", counted)
    began = time.monotonic()
    for number in range(2000):
        (config.parent / f"object-{number}").touch()
        guarding.act()
    assert len(looks) <= 2 * (2 + (time.monotonic() - began) / LOOK_PAUSE_S)


@pytest.mark.parametrize("times", [1, 2])
def test_a_file_in_its_place_is_noticed(guarding: Guarding, config: Path, said: list[str], times: int) -> None:
    """A guard that was replaced is worked on; where that fails, it is said, and what runs goes on."""
    for _ in range(times):
        replace(config)
    serve(guarding, PATIENCE_S, said)
    assert len(said) == 1
    assert "is not read-only inside: [Errno 22] setns" in said[0]


def test_what_is_replaced_while_the_cell_starts(config: Path, said: list[str]) -> None:
    """What happens before there is a cell is worked on once there is."""
    guard = Mount(PurePosixPath(config), is_read_only=True, is_file=True)
    with config.open() as no_namespace, Guarding((guard,), said.append) as guarding:
        replace(config)
        serve(guarding.serve((no_namespace.fileno(),)), PATIENCE_S, said)
    assert len(said) == 1


def test_no_watch_to_be_had(config: Path, said: list[str]) -> None:
    """Where there are no watches any more, that is said, and nothing else fails."""
    guard = Mount(PurePosixPath(config), is_read_only=True, is_file=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))  # one more descriptor, which waiting takes
    try:
        guarding = Guarding((guard,), said.append)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with guarding:
        replace(config)
        guarding.act()
        assert guarding.due() == ()
    assert len(said) == 1
    assert "from the next start on: [Errno 24] inotify_init1" in said[0]


def test_nothing_to_guard(said: list[str]) -> None:
    """Without guards nothing is watched."""
    with Guarding((), said.append) as guarding:
        guarding.act()
        assert (guarding.due(), said) == ((), [])


def test_one_that_comes_back(guarding: Guarding, config: Path, said: list[str]) -> None:
    """A guard that is gone is no work; when it is there again, it is."""
    config.unlink()
    (config.parent / "other").touch()
    serve(guarding, LOOK_PAUSE_S * 2, said)
    assert said == []
    replace(config)
    serve(guarding, PATIENCE_S, said)
    assert len(said) == 1


def test_it_ends_in_the_middle_of_work(guarding: Guarding, config: Path) -> None:
    """Leaving ends the process that works, and waits for it."""
    replace(config)
    guarding.act()
    assert guarding.due()


def test_what_fails_is_tried_again(
    guarding: Guarding, config: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guard that could not be put back is worked on again a few times, and then not before it is replaced anew."""
    monkeypatch.setattr(f"{MODULE}.WORK_PAUSE_S", 0.1)
    replace(config)
    for _ in range(TRIES_MAX):
        serve(guarding, PATIENCE_S, said)
        assert "is not read-only inside" in said.pop()
    serve(guarding, LOOK_PAUSE_S * 5, said)
    assert said == []
    replace(config)
    serve(guarding, PATIENCE_S, said)
    assert len(said) == 1


def spawn_stopped(module: str, fds: Sequence[int]) -> Child:
    """Start a process that gets no further than its interpreter, as one whose disk hangs."""
    child = spawn_module(module, fds)
    os.kill(child.pid, signal.SIGSTOP)
    return child


def test_a_process_that_hangs_holds_nobody_up(config: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest order is handed over although nobody takes it; the process is ended when its time is over, and not
    before that is there another."""
    monkeypatch.setattr(f"{MODULE}.WORK_S_MAX", 5.0)
    monkeypatch.setattr(f"{MODULE}.spawn_module", spawn_stopped)
    far = f"{config.parent}/{'/'.join(['d' * 200] * 10)}"
    guards = [Mount(PurePosixPath(far, str(number)), is_read_only=True) for number in range(GUARDS_MAX)]
    guards.append(Mount(PurePosixPath(config), is_read_only=True, is_file=True))
    with config.open() as no_namespace, Guarding(guards, said.append) as guarding:
        guarding.serve((no_namespace.fileno(),))
        replace(config)
        guarding.act()
        (until,) = guarding.due()
        assert time.monotonic() < until, "it came back before the process's time was over"
        replace(config)
        guarding.act()
        assert guarding.due() == (until,)
        serve(guarding, PATIENCE_S, said)
    assert len(said) == 1
    assert "it took too long" in said[0]
