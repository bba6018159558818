"""What is guarded in a workspace, what cannot be, and what a session's end finds changed."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from sandhold.model.event import EventId
from sandhold.model.sandbox import PROTECTED, Isolation, Limits, Mount, Sandbox
from sandhold.session.workspace import protection
from sandhold.session.workspace.protection import changed_since, forget_baseline, protect, write_baseline

E1 = EventId("E1")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a nested one and a submodule's `.git` that is a file."""
    folder = tmp_path / "project"
    for path in (".git/hooks", "vendor/lib/.git/hooks", "module", "ci/jobs"):
        (folder / path).mkdir(parents=True)
    for path in (".git/HEAD", ".git/config", "vendor/lib/.git/HEAD", "vendor/lib/.git/config", "ci/jobs/deploy"):
        (folder / path).write_text("x\n")
    (folder / "module" / ".git").write_text("gitdir: ../.git/modules/module\n")
    return folder


def sandbox(*mounts: Mount, protected: tuple[str, ...] = PROTECTED) -> Sandbox:
    """A sandbox with these folders."""
    limits = Limits(None, None, 10)
    return Sandbox("lab", "shell", Isolation.NAMESPACES, "host", mounts, limits, (), 0, 0.0, protected=protected)


def writable(folder: Path) -> Mount:
    """A folder that the sandbox may write."""
    return Mount(PurePosixPath(folder), is_read_only=False)


def guarded(of: Sandbox, folder: Path, *covered: str) -> dict[str, str]:
    """What lies over a folder, by paths from it: `ro` or `rw`, and whether it is a file."""
    return {
        str(mount.path.relative_to(folder)): ("ro" if mount.is_read_only else "rw") + (" file" if mount.is_file else "")
        for mount in protect(of, covered).guarded
    }


def test_repositories(project: Path) -> None:
    """Hooks and configuration of each repository are read-only, its `.git` is fixed in place, and one that is a file is
    read-only itself."""
    assert guarded(sandbox(writable(project)), project) == {
        ".git": "rw",
        ".git/hooks": "ro",
        ".git/config": "ro file",
        "vendor/lib/.git": "rw",
        "vendor/lib/.git/hooks": "ro",
        "vendor/lib/.git/config": "ro file",
        "module/.git": "ro file",
    }


def test_patterns(project: Path) -> None:
    """A pattern of the user's own fixes everything above what it matches; nothing else is guarded then."""
    assert guarded(sandbox(writable(project), protected=("ci/jobs/**", "/vendor/lib")), project) == {
        "ci": "rw",
        "ci/jobs": "ro",
        "vendor": "rw",
        "vendor/lib": "ro",
    }
    assert guarded(sandbox(writable(project), protected=()), project) == {}


def test_other_folders(project: Path) -> None:
    """A read-only folder needs no guard, what lies above one in a writable folder does, and what is mounted already is
    left alone."""
    docs = Mount(PurePosixPath(project / "ci" / "jobs"), is_read_only=True)
    assert guarded(sandbox(writable(project), docs, protected=()), project) == {"ci": "rw"}
    assert guarded(sandbox(Mount(PurePosixPath(project), is_read_only=True)), project) == {}


def test_beneath_what_is_put_inside(project: Path) -> None:
    """A file of the host's that one of ours stands over is guarded, in any folder of the sandbox; nothing is guarded
    where there is no such file: not outside its folders, not at a link, and not at what is no file."""
    (project / "link").symlink_to("module/.git")
    covered = [str(project / name) for name in ("module/.git", "nosuch", "link", "vendor")]
    found = guarded(sandbox(writable(project), protected=()), project, *covered, "/etc/hostname")
    assert found == {"module/.git": "ro file"}
    assert guarded(sandbox(writable(project / ".git"), protected=()), project, covered[0]) == {}


def test_hooks_are_made(project: Path) -> None:
    """A repository without hooks gets them; what is none yet does not, and nothing does without the default."""
    hooks = project / ".git" / "hooks"
    hooks.rmdir()
    protect(sandbox(writable(project), protected=()))
    assert not hooks.exists()
    (project / "new" / ".git").mkdir(parents=True)
    assert guarded(sandbox(writable(project)), project)[".git/hooks"] == "ro"
    assert (hooks.is_dir(), (project / "new" / ".git" / "hooks").exists()) == (True, False)


def test_what_cannot_be_guarded(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A match that is a link, a look that did not see everything, and too many matches are said."""
    (project / ".git" / "hooks").rmdir()
    (project / ".git" / "hooks").symlink_to("../ci")
    notes = protect(sandbox(writable(project))).notes
    assert any("`" + str(project / ".git/hooks") + "` is a link" in note for note in notes)
    monkeypatch.setattr(protection, "GUARDS_MAX", 2)
    found = protect(sandbox(writable(project)))
    assert (len(found.guarded), any("only 2 of" in note for note in found.notes)) == (2, True)
    assert any("was not looked through" in note for note in protect(sandbox(writable(project / "nosuch"))).notes)


def test_what_changed(project: Path, tmp_path: Path) -> None:
    """The end compares with what was kept at the start, once, for every folder but those with a look of their own."""
    place = tmp_path / "lab"
    place.mkdir()
    assert changed_since(place, E1) is None
    write_baseline(place, protect(sandbox(writable(project), writable(project / "vendor"))))
    assert changed_since(place, E1) is None
    (project / "vendor" / "Makefile").write_text("all:\n")
    found = changed_since(place, E1)
    assert found is not None
    assert [(each.what, each.path) for each in found.files] == [("new", str(project / "vendor" / "Makefile"))]
    forget_baseline(place)
    assert changed_since(place, E1) is None
    (place / protection.BASELINE).write_text("garbled")
    assert changed_since(place, E1) is None


def test_a_long_list_is_cut_and_says_so(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More changes than one record holds are counted."""
    monkeypatch.setattr(protection, "CHANGES_MAX", 2)
    write_baseline(tmp_path, protect(sandbox(writable(project))))
    for name in "abcde":
        (project / f"{name}.mk").write_text("all:\n")
    found = changed_since(tmp_path, E1)
    assert found is not None
    assert (len(found.files), found.more, found.unseen) == (2, 3, None)
