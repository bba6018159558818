"""What runs by itself is seen without following anything, and every way to change it is found."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandhold.session.workspace import survey
from sandhold.session.workspace.patterns import parse_pattern
from sandhold.session.workspace.survey import changes, from_json, look, to_json

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with two repositories and a few files that run by themselves."""
    folder = tmp_path / "project"
    for path, text in {
        "Makefile": "all:\n",
        "src/main.py": "x\n",
        ".git/config": "[core]\n",
        ".git/hooks/pre-commit": "true\n",
        ".vscode/tasks.json": "{}\n",
        "vendor/lib/.git/config": "[core]\n",
        "vendor/lib/.git/hooks/post-merge": "true\n",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def keep_times(path: Path, change: Callable[[], object]) -> None:
    """Change a file and put its times back, as an agent can."""
    before = path.stat()
    change()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _swap_folders(folder: Path) -> None:
    (folder / "ready" / "hooks").mkdir(parents=True)
    (folder / "ready" / "hooks" / "pre-commit").write_text("evil\n")
    (folder / ".git" / "hooks").rename(folder / "old")
    (folder / "ready" / "hooks").rename(folder / ".git" / "hooks")


def _swap_link(folder: Path) -> None:
    (folder / "Makefile").unlink()
    (folder / "Makefile").symlink_to("src/main.py")


ACTS: dict[str, tuple[Callable[[Path], object], list[tuple[str, str]]]] = {
    "nothing": (lambda _: None, []),
    "a source file": (lambda folder: (folder / "src/main.py").write_text("y\n"), []),
    "a new hook": (
        lambda folder: (folder / ".git/hooks/pre-push").write_text("evil"),
        [("new", ".git/hooks/pre-push")],
    ),
    "other bytes of the same length, times put back": (
        lambda folder: keep_times(folder / "Makefile", lambda: (folder / "Makefile").write_text("ALL:\n")),
        [("changed", "Makefile")],
    ),
    "the same bytes written again": (lambda folder: (folder / "Makefile").write_text("all:\n"), []),
    "another mode": (lambda folder: (folder / "Makefile").chmod(0o755), [("changed", "Makefile")]),
    "a link in its place": (_swap_link, [("changed", "Makefile")]),
    "deleted": (lambda folder: (folder / ".vscode/tasks.json").unlink(), [("gone", ".vscode/tasks.json")]),
    "a folder prepared elsewhere and moved in": (_swap_folders, [("changed", ".git/hooks/pre-commit")]),
    "a nested repository under another name": (
        lambda folder: (folder / "vendor/lib").rename(folder / "vendor/new"),
        [
            ("gone", "vendor/lib/.git/config"),
            ("gone", "vendor/lib/.git/hooks/post-merge"),
            ("new", "vendor/new/.git/config"),
            ("new", "vendor/new/.git/hooks/post-merge"),
        ],
    ),
    "the repository led elsewhere": (
        lambda folder: (folder / ".git/commondir").write_text("../evil"),
        [("new", ".git/commondir")],
    ),
    "a pipe that nobody writes to": (lambda folder: os.mkfifo(folder / "justfile"), [("new", "justfile")]),
}


@pytest.mark.parametrize(("act", "expected"), ACTS.values(), ids=ACTS)
def test_what_changed(project: Path, act: Callable[[Path], object], expected: list[tuple[str, str]]) -> None:
    """What is new, changed or gone is named, and nothing else, also after the first look was kept as text."""
    before = from_json(json.loads(json.dumps(to_json(look(str(project))))))
    act(project)
    assert [(each.what, each.path) for each in changes(before, look(str(project)))] == expected


def test_a_large_file_by_its_change_time(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file too large to be read is told by the time that only the kernel sets."""
    monkeypatch.setattr(survey, "CONTENT_BYTES_MAX", 2)
    before = look(str(project))
    assert changes(before, look(str(project))) == []
    keep_times(project / "Makefile", lambda: (project / "Makefile").write_text("ALL:\n"))
    assert [each.path for each in changes(before, look(str(project)))] == ["Makefile"]


def test_no_link_is_followed(project: Path, tmp_path: Path) -> None:
    """A link to a folder is not entered, and the folder to look through is none itself."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "Makefile").write_text("all:\n")
    (project / "link").symlink_to(tmp_path / "elsewhere")
    assert "link/Makefile" not in look(str(project)).files
    (tmp_path / "whole").symlink_to(project)
    assert (look(str(tmp_path / "whole")).files, look(str(tmp_path / "whole")).unseen is None) == ({}, False)


def test_a_folder_that_becomes_a_link(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is exchanged for a link between the look at its name and its opening is not entered."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "Makefile").write_text("all:\n")
    whole = os.open

    def exchanging(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "vendor":
            (project / "vendor").rename(tmp_path / "moved")
            (project / "vendor").symlink_to(tmp_path / "elsewhere")
        return whole(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", exchanging)
    found = look(str(project))
    assert "vendor/Makefile" not in found.files
    assert found.unseen is not None


def test_patterns_and_repositories(project: Path) -> None:
    """Matches of the patterns and every repository are found at any depth, but not behind a folder to stop at."""
    patterns = [parse_pattern(".git/hooks"), parse_pattern("Makefile")]
    found = look(str(project), patterns)
    assert sorted(found.protected) == [".git/hooks", "Makefile", "vendor/lib/.git/hooks"]
    assert sorted(found.repositories) == [".git", "vendor/lib/.git"]
    assert look(str(project), patterns, stops_at=["vendor"]).repositories == [".git"]


LIMITS = {
    "folders": ("FOLDERS_MAX", 2),
    "files": ("FILES_MAX", 1),
    "depth": ("DEPTH_MAX", 1),
    "time": ("SURVEY_S_MAX", -1.0),
}


@pytest.mark.parametrize(("name", "value"), LIMITS.values(), ids=LIMITS)
def test_a_look_ends(project: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: float) -> None:
    """A look that reaches a limit says so, and what it did not see is not taken for gone."""
    before = look(str(project))
    monkeypatch.setattr(survey, name, value)
    after = look(str(project))
    assert (before.unseen, after.unseen is None) == (None, False)
    assert [each for each in changes(before, after) if each.what == "gone"] == []


def test_names_that_are_no_text(project: Path) -> None:
    """A name of bytes that are no text, or that would drive a terminal, comes through and can be kept as text."""
    Path(os.fsdecode(os.fsencode(project) + b"/\xff\x1b[31m\n.mk")).write_text("all:\n")
    before = from_json(json.loads(json.dumps(to_json(look(str(project))))))
    assert "\udcff\x1b[31m\n.mk" in before.files
    assert changes(before, look(str(project))) == []


@pytest.mark.parametrize("values", [{}, {"files": []}, {"files": {"a": [1]}}, {"files": {}, "unseen": 3}])
def test_what_is_no_survey(values: dict[str, object]) -> None:
    """What was kept and is garbled is refused."""
    with pytest.raises((ValueError, TypeError)):
        from_json(values)
