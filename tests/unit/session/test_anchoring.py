"""Heads kept outside by a session's end: in a file, by a command, and what happens where that fails."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

from sandhold.errors import SbxError
from sandhold.model.event import SessionStopped
from sandhold.model.sandbox import Isolation, Limits, Mount, Sandbox
from sandhold.paths import Paths
from sandhold.session import anchoring
from sandhold.session.anchoring import anchor_end, anchor_outside, parse_anchor
from sandhold.session.circumstances import CLOCK
from sandhold.session.ends import find_end
from sandhold.store import sandboxes
from sandhold.store.audit import Trail
from sandhold.store.database import open_database
from sandhold.store.event_ids import new_event_id
from sandhold.store.heads import read_heads
from sandhold.store.records import Head
from sandhold.store.verification import remembered_heads, verify

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = Head(9, "a" * 64)
ENVIRONMENT = {"PATH": os.environ["PATH"]}
LAB = Sandbox("lab", "shell", Isolation.NAMESPACES, "host", (), Limits(None, None, 10), (), 0, 0.0)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """An installation of the test's own."""
    return Paths(tmp_path / "state", tmp_path / "data", tmp_path / "config")


@pytest.fixture
def trail(paths: Paths) -> Iterator[Trail]:
    """A trail whose session has just ended."""
    with Trail.open(paths.trail("lab"), "lab", "S1", CLOCK) as trail:
        trail.append([SessionStopped(new_event_id(0), "stopped", "ada")])
        yield trail


def store(paths: Paths, anchor: str | None) -> None:
    with closing(open_database(paths.database)) as database:
        sandboxes.add(database, replace(LAB, anchor=anchor))


def test_a_file_grows(tmp_path: Path) -> None:
    """Each head is a line more, and what stood there stays."""
    file = tmp_path / "heads"
    assert anchor_outside(str(file), "lab", HEAD, ENVIRONMENT) is None
    assert anchor_outside(str(file), "lab", Head(10, "b" * 64), ENVIRONMENT) is None
    assert read_heads(file) == {"lab": (HEAD, Head(10, "b" * 64))}


def test_a_command_gets_the_line(tmp_path: Path) -> None:
    """A command has the head on its standard input."""
    assert anchor_outside(f"|cat > {tmp_path}/heads", "lab", HEAD, ENVIRONMENT) is None
    assert read_heads(tmp_path / "heads") == {"lab": (HEAD,)}


FAILING = {
    "a folder that is gone": ("/nosuch/folder/heads", "No such file"),
    "a command that fails": ("|echo no space >&2; exit 3", "status 3: no space"),
    "a command that is none": ("|nosuch-command", "status 127"),
}


@pytest.mark.parametrize(("target", "words"), FAILING.values(), ids=FAILING)
def test_a_failure_is_on_record(paths: Paths, trail: Trail, target: str, words: str) -> None:
    """An anchor that fails is said and on record, the end it was for is remembered, and the chain goes on."""
    store(paths, target)
    ended = trail.head
    problem = anchor_end(paths, trail, "lab", ENVIRONMENT)
    assert words in (problem or "")
    end = find_end(paths.trail("lab"))
    assert end is not None
    assert (end.head, end.target, end.problem) == (ended, target, problem)
    with closing(open_database(paths.database)) as database:
        assert remembered_heads(database, "lab") == (trail.head,)
    assert verify(paths.trail("lab"), [ended, trail.head], "lab").is_intact


def test_a_command_that_does_not_end(paths: Paths, trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command has an end of its time, and the session's end does not wait longer."""
    monkeypatch.setattr(anchoring, "COMMAND_TIMEOUT_S", 0.2)
    store(paths, "|sleep 1000")
    assert "did not end" in (anchor_end(paths, trail, "lab", ENVIRONMENT) or "")


def test_success_leaves_no_record(paths: Paths, trail: Trail, tmp_path: Path) -> None:
    """What worked adds nothing to the trail: its head is the one that is kept outside."""
    store(paths, str(tmp_path / "heads"))
    assert anchor_end(paths, trail, "lab", ENVIRONMENT) is None
    assert read_heads(tmp_path / "heads") == {"lab": (trail.head,)}
    assert trail.head.seq == 1


def test_an_unreadable_database_loses_nothing(paths: Paths, trail: Trail) -> None:
    """Where the database cannot be read, the session's end is on record all the same."""
    paths.database.write_bytes(b"this is no database" * 100)
    assert anchor_end(paths, trail, "lab", ENVIRONMENT) is None
    assert verify(paths.trail("lab"), [trail.head], "lab").is_intact


REFUSED = {
    "a file that the sandbox sees": ("{project}/heads", "which the sandbox sees"),
    "a file below a folder that it sees": ("{project}/sub/heads", "which the sandbox sees"),
    "a folder": ("{home}", "no file that heads can be appended to"),
    "a link": ("{home}/link", "no file that heads can be appended to"),
    "a file in a folder that is not there": ("{home}/nosuch/heads", "no folder"),
    "no command": ("| ", "needs a command"),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_anchor(tmp_path: Path, text: str, words: str) -> None:
    """Where an agent could write, or nothing could be appended, is no place for heads."""
    project = tmp_path / "project"
    (project / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    mounts = (Mount(PurePosixPath(project), is_read_only=False),)
    with pytest.raises(SbxError, match=words):
        parse_anchor(text.format(project=project, home=tmp_path), mounts)


def test_a_way_round_through_a_link(tmp_path: Path) -> None:
    """A path that leads into the workspace through a link is one that the sandbox sees."""
    (tmp_path / "project").mkdir()
    (tmp_path / "round").symlink_to(tmp_path / "project")
    mounts = (Mount(PurePosixPath(tmp_path / "project"), is_read_only=False),)
    with pytest.raises(SbxError, match="sandbox sees"):
        parse_anchor(str(tmp_path / "round" / "heads"), mounts)


def test_what_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file becomes absolute, there or not; a command stays as it is."""
    monkeypatch.chdir(tmp_path)
    assert parse_anchor("heads", ()) == str(tmp_path / "heads")
    assert parse_anchor("|logger -t sbx", ()) == "|logger -t sbx"
