"""Branch mode end to end: the agent commits on a branch, and the user's repository is otherwise out of its reach."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.installation import wait_until

if TYPE_CHECKING:
    from tests.host.conftest import Person
    from tests.installation import Installation
    from tests.isolation import Kind


def git(folder: Path, *words: str) -> str:
    """Run git on the host as its user does."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder.parent), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(["git", *words], cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def repository(sbx: Installation, project: Path) -> Path:
    """Make the project a repository with one commit."""
    git(project, "init", "-q", "-b", "main")
    git(project, "config", "user.name", "Tester")
    git(project, "config", "user.email", "tester@example.com")
    git(project, "add", "--all")
    git(project, "commit", "-q", "-m", "one")
    return project


@pytest.fixture
def own(sbx: Installation) -> Installation:
    """Give the installation a data folder of its own, where worktrees are kept; the host's programs need no other."""
    return replace(sbx, data=sbx.home / "data")


@pytest.fixture
def own_with_templates(own: Installation, template_folder: Path) -> Installation:
    """Give it what templates and machines are made of, too, which all tests share."""
    folder = own.data / "sandhold"
    folder.mkdir(parents=True)
    for name in ("templates", "vm"):
        shared = template_folder / "sandhold" / name
        shared.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(shared)
    return own


def run(own: Installation, repository: Path, script: str, *flags: str) -> str:
    """Let the agent of the branch `fix` run a script; returns all that was said."""
    words = ("run", "--branch", "fix", "--name", "lab", "--template", "host", *flags, "shell", "--", "-c", script)
    done = own(*words, folder=repository)
    return done.out + done.err


def test_work_on_a_branch(own: Installation, repository: Path) -> None:
    """The agent commits on the branch, the user's working tree stays, and what is said takes the work over."""
    said = run(own, repository, "pwd; echo two > hello.txt; git commit -qam two; echo three > new; git status --short")
    assert f"{own.home}/data/sandhold/branches/lab/project\n" in said
    assert "?? new" in said
    assert "`git diff main...fix`" in said
    assert "in no commit yet" in said
    assert (repository / "hello.txt").read_text() == "hello from the host\n"
    assert git(repository, "status", "--porcelain") == ""
    assert "+two" in git(repository, "diff", "main...fix")
    assert git(repository, "log", "-1", "--format=%an", "fix") == "Tester\n"
    assert "three" in run(own, repository, "cat new; git add new; git commit -qm three")
    git(repository, "merge", "-q", "fix")
    assert (repository / "new").read_text() == "three\n"
    own.ok("rm", "lab")
    assert git(repository, "worktree", "list", "--porcelain").count("worktree ") == 1
    assert not (own.home / "data" / "sandhold" / "branches" / "lab").exists()


ATTEMPTS = {
    "a hook": "echo x > {git}/hooks/post-checkout",
    "another folder of hooks": "mv {git}/hooks {git}/old",
    "the configuration": "git config core.fsmonitor /bin/false",
    "the configuration by its file": "echo '[core]' >> {git}/config",
    "the configuration of worktrees": "echo x > {git}/config.worktree",
    "the worktree's own configuration": "echo '[core]' > {git}/worktrees/project/config.worktree",
    "the worktree's own configuration in its place": "mv {git}/worktrees/project/config.worktree /tmp",
    "attributes": "mkdir -p {git}/info; echo '* filter=x' > {git}/info/attributes",
    "modules": "mkdir {git}/modules",
    "objects of others": "echo /tmp > {git}/objects/info/alternates",
    "objects of others by a new folder": "mv {git}/objects/info {git}/objects/old",
    "the user's own branch checked out": "echo 'ref: refs/heads/fix' > {git}/HEAD",
    "the user's index": "rm {git}/index",
    "the user's reflog": "rm -r {git}/logs/HEAD",
    "the common folder": "echo /tmp > {git}/worktrees/project/commondir",
    "the worktree's tie": "echo 'gitdir: /tmp' > .git",
    "the worktree's tie by a link": "rm -f .git && ln -s /tmp .git",
    "the worktree's records": "mv {git}/worktrees/project {git}/worktrees/other",
    "the records of other worktrees": "mkdir {git}/worktrees/other",
    "an unmounting": "sudo -n umount {git}/objects/info",
}


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return the content of every file of a repository but objects and what a commit in the worktree changes."""
    free = (folder / "objects", folder / "worktrees" / "project")
    found = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    kept = ("commondir", "gitdir", "config.worktree")
    return {
        path: content
        for path, content in found.items()
        if not path.startswith((f"{free[0]}/", f"{free[1]}/")) or path.endswith((*kept, "alternates"))
    }


def test_what_the_agent_cannot_change(own: Installation, repository: Path) -> None:
    """Nothing that git on the host would obey can be written from inside, by the agent or by root."""
    run(own, repository, "true")
    before = snapshot(repository / ".git")
    assert len(before) > 5
    for user in ("agent", "root"):
        for what, attempt in ATTEMPTS.items():
            script = attempt.format(git=repository / ".git")
            assert own("exec", "-u", user, "lab", "bash", "-c", script).status != 0, (user, what)
    assert snapshot(repository / ".git") == before
    assert (own.home / "data/sandhold/branches/lab/project/.git").read_text().startswith(f"gitdir: {repository}/.git/")
    assert "works" in run(own, repository, "git commit -q --allow-empty -m 'still works'; git log -1 --format=%s")


def ties(repository: Path, worktree: Path) -> list[Path]:
    """Return the files that git on the host follows from the worktree to the repository, and back."""
    records = repository / ".git" / "worktrees" / "project"
    return [worktree / ".git", *(records / name for name in ("gitdir", "commondir", "config.worktree"))]


def test_ties_that_the_host_replaces(own: Installation, repository: Path) -> None:
    """A file that ties the worktree to its repository is read-only inside again after the host has written it anew."""
    own.ok("run", "-d", "--branch", "fix", "--name", "lab", "--template", "host", "shell", folder=repository)
    for tie in ties(repository, own.home / "data/sandhold/branches/lab/project"):
        before = covered(own)
        shutil.copy2(tie, tie.with_name("new"))
        tie.with_name("new").replace(tie)
        wait_until(lambda before=before: covered(own) > before, "it is covered again")
        for user in ("agent", "root"):
            said = own("exec", "-u", user, "lab", "bash", "-c", f"echo x >> {tie}").err
            assert "Read-only file system" in said, tie
    own.ok("rm", "-f", "lab")


def covered(own: Installation) -> int:
    """How often the session says that it covered something again."""
    return own.ok("logs", "lab").count("read-only again that were replaced")


def test_root_cannot_write_a_tie(own_with_templates: Installation, repository: Path, isolation: Kind) -> None:
    """Where root inside takes away what stands over a tie, as it can in a machine of its own, the tie is read-only all
    the same."""
    sbx, words = own_with_templates, ("run", "-d", "--branch", "fix", "--name", "lab", *isolation.quickest, "shell")
    sbx.ok(*words, folder=repository)
    worktree = Path(sbx.ok("exec", "lab", "pwd").strip())
    found = ties(repository, worktree)
    before = [tie.read_bytes() for tie in found]
    for tie in found:
        done = sbx("exec", "-u", "root", "lab", "bash", "-c", f"umount {tie}; echo x >> {tie}")
        assert done.status != 0, (tie, done)
    assert [tie.read_bytes() for tie in found] == before
    sbx.ok("rm", "-f", "lab")
    assert not worktree.exists()


def test_the_working_tree_is_not_there(own: Installation, repository: Path) -> None:
    """Of the repository's folder the sandbox sees `.git` and nothing else."""
    (repository / "untracked").write_text("the user's own\n")
    assert run(own, repository, f"ls -A {repository}").startswith(".git\n")


def test_deleting_keeps_work(own: Installation, repository: Path) -> None:
    """`rm`, also with `--force`, keeps a worktree with work in no commit and says where; a new sandbox goes on."""
    run(own, repository, "echo precious > new")
    kept = own.home / "data" / "sandhold" / "branches" / "lab" / "project"
    done = own("rm", "-f", "lab")
    assert (done.status, (kept / "new").read_text()) == (0, "precious\n")
    assert f"kept `{kept}`" in done.err
    assert own.ok("ls", "-q") == ""
    assert "precious" in run(own, repository, "cat new")


def test_rm_after_the_run_keeps_commits(own: Installation, repository: Path) -> None:
    """`--rm` deletes the sandbox and its worktree when all is committed; the branch stays."""
    run(own, repository, "echo two > hello.txt; git commit -qam two", "--rm")
    assert own.ok("ls", "-q") == ""
    assert not (own.home / "data" / "sandhold" / "branches" / "lab").exists()
    assert git(repository, "log", "-1", "--format=%s", "fix") == "two\n"


def test_the_name_says_which(own: Installation, repository: Path) -> None:
    """Without a name the sandbox is named after agent, folder and branch, and the same words come back to it."""
    for _ in range(2):
        own.ok("run", "--template", "host", "--branch", "feature/x", "shell", "--", "-c", "true", folder=repository)
        assert own.ok("ls", "-q") == "shell-project-feature-x\n"


REFUSED = {
    "a name that is an option": ("--branch=-oProxyCommand=x", "cannot name a branch"),
    "a name that leaves refs": ("--branch=../../hooks/x", "cannot name a branch"),
    "the user's own branch": ("--branch=main", "exists already"),
}


@pytest.mark.parametrize(("flag", "words"), REFUSED.values(), ids=REFUSED)
def test_branches_that_are_refused(own: Installation, repository: Path, flag: str, words: str) -> None:
    """A branch that cannot be is refused in words, and no sandbox is made."""
    done = own("run", "--template", "host", flag, "shell", "--", "-c", "true", folder=repository)
    assert done.status in (1, 2)
    assert words in done.err
    assert own.ok("ls", "-q") == ""


def test_a_branch_is_for_new_sandboxes(own: Installation, repository: Path) -> None:
    """A sandbox that has no branch is not given one later."""
    own.ok("create", "--template", "host", "--name", "lab", "shell", ".", folder=repository)
    done = own("run", "--branch", "fix", "lab", folder=repository)
    assert (done.status, git(repository, "branch", "--list", "fix")) == (2, "")
    assert "`--branch` can only be given when a sandbox is made" in done.err


def test_nested_folders(person: Person) -> None:
    """For every kind of user, folders within folders are writable and read-only as each says, whatever their modes."""
    outer = person.folder("outer")
    for path in (outer / "open", outer / "open" / "shut"):
        path.mkdir(mode=0o700)
        os.chown(path, person.uid, person.uid)
    outer.chmod(0o700)
    mounts = [[str(outer), True], [str(outer / "open"), False], [str(outer / "open" / "shut"), True]]
    cell = person.start(mounts=mounts)
    try:
        for folder, expected in ((outer, 1), (outer / "open", 0), (outer / "open" / "shut", 1)):
            assert cell.run("/usr/bin/touch", f"{folder}/file")[0] == expected
    finally:
        cell.close()
    assert [(path.stat().st_mode & 0o777) for path in (outer, outer / "open", outer / "open" / "shut")] == [0o700] * 3
