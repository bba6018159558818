"""Branch mode on real repositories, hostile ones too: what is made, what is refused, and that none of theirs runs."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sandhold.errors import SbxError
from sandhold.paths import Paths
from sandhold.session import creation
from sandhold.session.workspace import branches

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WANTED = creation.Wanted(agent="shell", paths=(), template="host")


class Lab:
    """A repository of a user, with folders of ours beside it; `tripwire` is a program that must never run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = folder / "project"
        self.repository.mkdir()
        self.paths = Paths(folder / "state", folder / "data", folder / "config")
        self.ran = folder / "ran"
        self.tripwire = folder / "tripwire"
        self.tripwire.write_text(f'#!/bin/sh\necho "$0 $@" >> {self.ran}\ncat\n')
        self.tripwire.chmod(0o755)
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "Tester")
        self.git("config", "user.email", "tester@example.com")
        (self.repository / "page").write_text("one\n")
        (self.repository / ".gitignore").write_text("built\n")
        self.commit("one")

    def git(self, *words: str, folder: Path | None = None) -> str:
        """Run git as the user does."""
        environment = {**os.environ, "HOME": str(self.folder), "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(
            ["git", *words], cwd=folder or self.repository, env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout

    def commit(self, message: str, folder: Path | None = None) -> None:
        """Commit everything."""
        self.git("add", "--all", folder=folder)
        self.git("commit", "-q", "--allow-empty", "-m", message, folder=folder)

    def make(self, branch: str = "fix", name: str = "lab") -> branches.Branch:
        """Make a sandbox's branch; returns it."""
        wanted = replace(WANTED, paths=(str(self.repository),), name=name)
        branches.make(branches.plan(wanted, branch, self.paths), self.paths, {"HOME": str(self.folder)})
        made = branches.find(self.paths, name)
        assert made is not None
        return made


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Make a repository with one commit."""
    return Lab(tmp_path.resolve())


def test_a_worktree_on_a_branch(lab: Lab) -> None:
    """The worktree is outside the repository and the state, holds its files, and git knows it as one of its own."""
    made = lab.make()
    worktree = lab.paths.data / "branches" / "lab" / "project"
    assert made.worktree == str(worktree)
    assert (worktree / "page").read_text() == "one\n"
    assert lab.git("status", "--porcelain", folder=worktree) == ""
    assert lab.git("branch", "--show-current", folder=worktree) == "fix\n"
    assert lab.git("branch", "--show-current") == "main\n"
    assert branches.advice(made) == ("review it with `git diff main...fix`, take it over with `git merge fix`",)


def test_what_is_writable_inside(lab: Lab) -> None:
    """Inside, of the repository only objects, refs and the worktree's records can be written."""
    wanted = replace(WANTED, paths=(str(lab.repository),), name="lab")
    sandbox = branches.make(branches.plan(wanted, "fix", lab.paths), lab.paths, {"HOME": str(lab.folder)})
    git_dir = lab.repository / ".git"
    assert [str(mount) for mount in sandbox.mounts] == [
        f"{lab.paths.data}/branches/lab/project",
        f"{git_dir}:ro",
        f"{git_dir}/objects",
        f"{git_dir}/refs",
        f"{git_dir}/objects/info:ro",
        f"{git_dir}/worktrees/project",
    ]
    files = {str(file.path): file.content for file in branches.files_for_start(lab.paths, "lab")}
    assert files == {
        f"{lab.paths.data}/branches/lab/project/.git": f"gitdir: {git_dir}/worktrees/project\n".encode(),
        f"{git_dir}/worktrees/project/gitdir": f"{lab.paths.data}/branches/lab/project/.git\n".encode(),
        f"{git_dir}/worktrees/project/commondir": b"../..\n",
        f"{git_dir}/worktrees/project/config.worktree": b"",
    }
    assert dict(sandbox.environment)["GIT_CONFIG_VALUE_0"] == "Tester"


BAD_NAMES = (
    "",
    "-b",
    "--upload-pack=x",
    "a..b",
    "a b",
    "a.lock",
    "a/",
    "/a",
    "HEAD",
    "a\nb",
    "a;b",
    "@{-1}",
    "é",
    "a~1",
)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_no_branch(lab: Lab, name: str) -> None:
    """What is no plain name of a branch is refused before git sees it as more than a word to check."""
    with pytest.raises(SbxError, match="cannot name a branch"):
        lab.make(name)
    assert not (lab.paths.data / "branches").exists()
    assert lab.git("branch", "--format=%(refname:short)") == "main\n"


def _hooks(lab: Lab) -> None:
    for hook in ("post-checkout", "reference-transaction", "post-index-change", "pre-auto-gc", "post-commit"):
        (lab.repository / ".git" / "hooks" / hook).symlink_to(lab.tripwire)


def _settings(lab: Lab) -> None:
    for key in ("core.fsmonitor", "core.sshCommand", "core.pager", "core.editor", "core.askPass", "diff.external"):
        lab.git("config", key, str(lab.tripwire))
    lab.git("config", "core.hooksPath", str(lab.folder / "hooks"))
    (lab.folder / "hooks").mkdir()
    (lab.folder / "hooks" / "post-checkout").symlink_to(lab.tripwire)
    (lab.folder / "hooks" / "reference-transaction").symlink_to(lab.tripwire)
    lab.git("config", "alias.worktree", f"!{lab.tripwire}")
    lab.git("config", "credential.helper", f"!{lab.tripwire}")


def _filters(lab: Lab) -> None:
    (lab.repository / ".gitattributes").write_text("* filter=trip diff=trip merge=trip\n")
    lab.commit("attributes")
    (lab.repository / ".git" / "info" / "attributes").write_text("* filter=trip\n")
    for key in ("filter.trip.clean", "filter.trip.smudge", "diff.trip.textconv", "diff.trip.command"):
        lab.git("config", key, str(lab.tripwire))
    lab.git("config", "filter.trip.process", str(lab.tripwire))
    lab.git("config", "filter.trip.required", "true")


def _included(lab: Lab) -> None:
    other = lab.folder / "included"
    other.write_text(f"[core]\n\tfsmonitor = {lab.tripwire}\n\thooksPath = {lab.folder}/hooks\n")
    (lab.folder / "hooks").mkdir()
    (lab.folder / "hooks" / "reference-transaction").symlink_to(lab.tripwire)
    lab.git("config", "include.path", str(other))


def _promised(lab: Lab) -> None:
    """A partial clone whose objects are elsewhere: git would fetch them from what the configuration names."""
    lab.git("config", "core.repositoryFormatVersion", "1")
    lab.git("config", "extensions.partialClone", "origin")
    lab.git("config", "remote.origin.promisor", "true")
    lab.git("config", "remote.origin.url", f"ext::{lab.tripwire} %S")
    lab.git("config", "protocol.ext.allow", "always")
    lab.git("config", "remote.origin.uploadpack", str(lab.tripwire))


HOSTILE = {
    "hooks": _hooks,
    "settings that name programs": _settings,
    "filters and drivers": _filters,
    "settings in an included file": _included,
    "a remote that promises objects": _promised,
}


@pytest.mark.parametrize("arm", HOSTILE.values(), ids=HOSTILE)
def test_nothing_of_a_hostile_repository_runs(lab: Lab, arm: Callable[[Lab], None]) -> None:
    """Making, starting, reviewing and deleting run no program that the repository names."""
    arm(lab)
    lab.ran.unlink(missing_ok=True)
    made = lab.make()
    branches.files_for_start(lab.paths, "lab")
    (lab.paths.data / "branches" / "lab" / "project" / "page").write_text("two\n")
    assert branches.has_uncommitted(made)
    assert len(branches.advice(made)) == 2
    (lab.paths.data / "branches" / "lab" / "project" / "page").write_text("one\n")
    assert branches.release(lab.paths, "lab") is None
    assert not lab.ran.exists()


def test_the_tripwire_works(lab: Lab) -> None:
    """The control of the test above: git as the user calls it does run what the repository names."""
    _filters(lab)
    (lab.repository / "page").write_text("two\n")
    subprocess.run(["git", "add", "page"], cwd=lab.repository, check=False, capture_output=True)
    assert lab.ran.exists()


@pytest.mark.parametrize("lacking", ["HEAD:page", "HEAD^{tree}", "HEAD"])
def test_a_missing_promised_object_is_not_fetched(lab: Lab, lacking: str) -> None:
    """A partial clone that lacks an object fails, and nothing is asked for it."""
    name = lab.git("rev-parse", lacking).strip()
    (lab.repository / ".git" / "objects" / name[:2] / name[2:]).unlink()
    _promised(lab)
    with pytest.raises(SbxError):
        lab.make()
    assert not lab.ran.exists()
    assert not (lab.paths.data / "branches" / "lab").exists()
    assert [path.name for path in (lab.repository / ".git" / "refs" / "heads").iterdir()] == ["main"]
    assert list((lab.repository / ".git").glob("worktrees/*")) == []


def _git_is_a_link(lab: Lab) -> None:
    (lab.repository / ".git").rename(lab.folder / "elsewhere")
    (lab.repository / ".git").symlink_to(lab.folder / "elsewhere")


def _git_is_a_file(lab: Lab) -> None:
    (lab.repository / ".git").rename(lab.folder / "elsewhere")
    (lab.repository / ".git").write_text(f"gitdir: {lab.folder}/elsewhere\n")


def _objects_are_borrowed(lab: Lab) -> None:
    (lab.repository / ".git" / "objects" / "info" / "alternates").write_text(f"{lab.folder}/other/objects\n")


def _heads_are_a_link(lab: Lab) -> None:
    (lab.repository / ".git" / "refs" / "heads").rename(lab.folder / "heads")
    (lab.repository / ".git" / "refs" / "heads").symlink_to(lab.folder / "heads")


def _no_commit(lab: Lab) -> None:
    lab.git("checkout", "-q", "--orphan", "empty")


def _branch_exists(lab: Lab) -> None:
    lab.git("branch", "fix")


REFUSED = {
    "`.git` is a link": (_git_is_a_link, "not a folder"),
    "`.git` is a file": (_git_is_a_file, "not a folder"),
    "objects come from another repository": (_objects_are_borrowed, "borrows objects"),
    "the branches are a link": (_heads_are_a_link, "no plain folder"),
    "nothing is committed": (_no_commit, "no commit yet"),
    "the user has the branch": (_branch_exists, "exists already"),
}


@pytest.mark.parametrize(("arm", "words"), REFUSED.values(), ids=REFUSED)
def test_repositories_that_are_refused(lab: Lab, arm: Callable[[Lab], None], words: str) -> None:
    """A repository that leads elsewhere or has nothing to start from is refused, and nothing is made."""
    arm(lab)
    with pytest.raises(SbxError, match=words):
        lab.make()
    assert not (lab.paths.data / "branches" / "lab").exists()


def test_no_repository(tmp_path: Path) -> None:
    """A folder that is in no repository is refused with what to do."""
    paths = Paths(tmp_path / "state", tmp_path / "data", tmp_path / "config")
    folder = tmp_path / "plain"
    folder.mkdir()
    with pytest.raises(SbxError, match="in no git repository") as caught:
        branches.plan(replace(WANTED, paths=(str(folder),)), "fix", paths)
    assert "git init" in str(caught.value.hint)


def test_a_folder_below_is_the_same_repository(lab: Lab) -> None:
    """From a folder below, the whole repository is meant, and the sandbox is named after it and the branch."""
    below = lab.repository / "src"
    below.mkdir()
    planned = branches.plan(replace(WANTED, paths=(str(below),)), "feature/login", lab.paths)
    assert (planned.repository, planned.sandbox.name) == (lab.repository, "shell-project-feature-login")


WORK: dict[str, Callable[[Path], object]] = {
    "a changed file": lambda folder: (folder / "page").write_text("two\n"),
    "a new file": lambda folder: (folder / "new").write_text("new\n"),
    "a deleted file": lambda folder: (folder / "page").unlink(),
    "a file inside a nested repository": lambda folder: subprocess.run(
        ["git", "init", "-q", folder / "nested"], check=True
    ),
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_work_is_kept(lab: Lab, work: Callable[[Path], object]) -> None:
    """A worktree with work in no commit outlives its sandbox, and a new sandbox of the name goes on with it."""
    made = lab.make()
    folder = lab.paths.data / "branches" / "lab" / "project"
    work(folder)
    before = sorted(path.name for path in folder.iterdir())
    assert branches.release(lab.paths, "lab") == made.worktree
    assert sorted(path.name for path in folder.iterdir()) == before
    assert lab.make() == made
    with pytest.raises(SbxError, match="still holds work of another branch"):
        lab.make("other")


def test_commits_are_kept(lab: Lab) -> None:
    """Deleting a sandbox whose work is committed deletes the worktree and never the branch."""
    made = lab.make()
    folder = lab.paths.data / "branches" / "lab" / "project"
    (folder / "page").write_text("two\n")
    lab.commit("two", folder=folder)
    (folder / "built").write_text("what the repository ignores\n")
    assert branches.release(lab.paths, "lab") is None
    assert lab.git("log", "-1", "--format=%s", made.name) == "two\n"
    assert not folder.exists()
    assert not (lab.paths.data / "branches" / "lab").exists()
    assert lab.git("worktree", "list", "--porcelain").count("worktree ") == 1


def test_a_commit_on_no_branch_is_kept(lab: Lab) -> None:
    """A worktree that left its branch is kept: its commits may be on none."""
    made = lab.make()
    folder = lab.paths.data / "branches" / "lab" / "project"
    lab.git("checkout", "-q", "--detach", folder=folder)
    lab.commit("lost otherwise", folder=folder)
    assert branches.release(lab.paths, "lab") == made.worktree
    assert folder.exists()


def _other_git_file(lab: Lab, made: branches.Branch) -> None:
    (lab.folder / "evil").mkdir()
    (lab.paths.data / "branches" / "lab" / "project" / ".git").write_text(f"gitdir: {lab.folder}/evil\n")


def _linked_git_file(lab: Lab, made: branches.Branch) -> None:
    tie = lab.paths.data / "branches" / "lab" / "project" / ".git"
    tie.rename(lab.folder / "tie")
    tie.symlink_to(lab.folder / "tie")


def _other_common_folder(lab: Lab, made: branches.Branch) -> None:
    (lab.repository / ".git" / "worktrees" / "project" / "commondir").write_text(f"{lab.folder}/evil\n")


def _other_worktree(lab: Lab, made: branches.Branch) -> None:
    (lab.repository / ".git" / "worktrees" / "project" / "gitdir").write_text(f"{lab.repository}/.git\n")


LED_ASTRAY = {
    "the worktree names another repository": _other_git_file,
    "the worktree's tie is a link": _linked_git_file,
    "the records name another common folder": _other_common_folder,
    "the records name another worktree": _other_worktree,
}


@pytest.mark.parametrize("change", LED_ASTRAY.values(), ids=LED_ASTRAY)
def test_a_worktree_that_leads_elsewhere_does_not_start(
    lab: Lab, change: Callable[[Lab, branches.Branch], None]
) -> None:
    """What ties the worktree to its repository is checked before each start."""
    change(lab, lab.make())
    with pytest.raises(SbxError, match="does not belong to the worktree"):
        branches.files_for_start(lab.paths, "lab")


def test_the_users_own_commits_do_not_stand_in_the_way(lab: Lab) -> None:
    """A commit that the user made in the worktree leaves a reflog that the inside could not write; it is set aside."""
    made = lab.make()
    lab.commit("by the user", folder=lab.paths.data / "branches" / "lab" / "project")
    log = lab.repository / ".git" / "logs" / "refs" / "heads" / made.name
    assert log.exists()
    lines = log.read_text()
    branches.files_for_start(lab.paths, "lab")
    assert not log.exists()
    assert (lab.paths.data / "branches" / "lab" / "reflog-1").read_text() == lines


def test_one_worktree_a_branch(lab: Lab) -> None:
    """A branch that one sandbox works on is not given to another, and what was begun for it is taken back."""
    lab.make()
    with pytest.raises(SbxError, match="fix"):
        lab.make("fix", "second")
    assert not (lab.paths.data / "branches" / "second").exists()
    assert lab.git("branch", "--format=%(refname:short)").split() == ["fix", "main"]


def test_a_pipe_holds_nothing_up(lab: Lab) -> None:
    """A pipe where git looks for a file counts as work and is waited for only so long."""
    made = lab.make()
    folder = lab.paths.data / "branches" / "lab" / "project"
    (folder / ".gitignore").unlink()
    os.mkfifo(folder / ".gitignore")
    assert branches.has_uncommitted(made)
