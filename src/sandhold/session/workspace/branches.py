"""Branch mode: the agent gets a git worktree of the user's repository on a branch of its own, not the working tree.

The worktree is kept in the data folder, `branches/SANDBOX/FOLDER`: outside the repository, so that neither the user's
tools nor an ordinary sandbox in it come across it, and outside the state folder, which no sandbox may see any part of.

Rules:

1. Our own git calls run no program that a repository names (`session/workspace/git.py`). We follow no link out of a
   repository: its `.git` is a folder, and it borrows no objects from others.
2. Inside, the repository's `.git` is read-only but for what a commit needs: objects, refs, and the worktree's own
   records. What runs programs (configuration, hooks, attributes, modules) is so read-only whether it is there or not,
   and so are `HEAD`, the index and the reflogs of the user's own working tree.
3. The files that tie the worktree to its repository are read-only inside and checked before each start: git on the host
   would follow them too.
4. Deleting a sandbox deletes its worktree only when a commit on its branch has everything in it, and never a branch.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from sandhold.cell import tree
from sandhold.cell.spec import InjectedFile
from sandhold.errors import EXIT_USAGE, SbxError
from sandhold.model.sandbox import Mount
from sandhold.model.sandbox_name import default_name
from sandhold.session import creation
from sandhold.session.workspace import git
from sandhold.session.workspace.branch_folder import BRANCHES_FOLDER
from sandhold.store.sandboxes import NameTakenError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandhold.model.sandbox import Sandbox
    from sandhold.paths import Paths

LOOK_TIMEOUT_S: Final = 20.0  # every file is read; the agent may have put a pipe where git expects a `.gitignore`
FILE_BYTES_MAX: Final = 64 * 1024  # a line each; a configuration is a page

_RECORD: Final = "branch.json"
_WRITABLE: Final = ("objects", "refs")


@dataclass(frozen=True, slots=True)
class Branch:
    """A worktree and what it belongs to; all paths are absolute and without links.

    `repository` is the folder of the user's working tree, `base` the branch it was on (a commit when it was on none),
    `records` the worktree's own folder in the repository's `.git`.
    """

    name: str
    base: str
    repository: str
    worktree: str
    records: str

    @property
    def git_dir(self) -> Path:
        """The repository's `.git`."""
        return Path(self.repository, ".git")


@dataclass(frozen=True, slots=True)
class Planned:
    """A sandbox on a branch before anything is made; its mounts are still those of an ordinary one."""

    sandbox: Sandbox
    branch: str
    repository: Path


def plan(wanted: creation.Wanted, branch: str, paths: Paths) -> Planned:
    """Check what was asked for; nothing is made yet.

    Raises:
        SbxError: when the folder is in no repository that can be used, or the rest cannot be had.
    """
    git.check_branch_name(branch)
    first, *others = wanted.paths or (".",)
    repository = _repository(first)
    name = wanted.name
    if name is None:
        name = default_name(f"{wanted.agent}-{repository.name}", branch.replace("/", "-"))
    ordinary = replace(wanted, name=name, paths=(str(repository), *others))
    return Planned(creation.plan(ordinary, paths), branch, repository)


def expect_same(planned: Planned, sandbox: Sandbox, paths: Paths) -> None:
    """Check that a sandbox which has the name already is the one that is meant.

    Raises:
        NameTakenError: when it is another.
    """
    found = find(paths, sandbox.name)
    if (
        found is None
        or sandbox.agent != planned.sandbox.agent
        or (found.name, found.repository) != (planned.branch, str(planned.repository))
    ):
        raise NameTakenError(sandbox.name)


def make(planned: Planned, paths: Paths, environ: Mapping[str, str]) -> Sandbox:
    """Make the branch and its worktree, or take on the one that a deleted sandbox of the name left; returns the sandbox
    with its mounts.

    Raises:
        SbxError: when it cannot be made; nothing is left then.
    """
    name = planned.sandbox.name
    branch = find(paths, name)
    if branch is None:
        branch = _make(planned, _home(paths, name))
    elif (branch.name, branch.repository) != (planned.branch, str(planned.repository)):
        raise SbxError(
            f"`{branch.worktree}` still holds work of another branch, `{branch.name}`",
            hint="give this sandbox another name with `--name`",
        )
    identity = _identity(branch, planned.sandbox, environ)
    return replace(
        planned.sandbox,
        mounts=(*_mounts(branch), *planned.sandbox.mounts[1:]),
        environment=(*identity, *planned.sandbox.environment),
    )


def find(paths: Paths, sandbox: str) -> Branch | None:
    """Return the branch of a sandbox, None when it has none.

    Raises:
        SbxError: when what is known of it cannot be read.
    """
    path = _home(paths, sandbox) / _RECORD
    try:
        with path.open("rb") as file:
            return Branch(**json.loads(file.read(FILE_BYTES_MAX)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise SbxError(f"`{path}` cannot be read: {error}") from error


def files_for_start(paths: Paths, sandbox: str) -> tuple[InjectedFile, ...]:
    """Check a sandbox's worktree by rule 3 and return the files that stand read-only in it; none without a branch.

    Raises:
        SbxError: when something on the host was changed so that git would be led elsewhere.
    """
    branch = find(paths, sandbox)
    if branch is None:
        return ()
    _check_repository(branch.git_dir)
    ties = _ties(branch)
    for path, wanted in ties.items():
        if _read(path) != wanted:
            raise SbxError(
                f"`{path}` does not belong to the worktree of `{sandbox}` any more",
                hint=f"see `git -C {branch.repository} worktree list`; `git worktree repair` may mend it",
            )
    settings = Path(branch.records, "config.worktree")
    content = _read(settings)
    if content is None:
        _write_new(settings, b"")
    _set_reflog_aside(branch, _home(paths, sandbox))
    ties[settings] = content or b""
    return tuple(InjectedFile(PurePosixPath(path), held, is_agents=True) for path, held in ties.items())


def advice(branch: Branch) -> tuple[str, ...]:
    """Return how to look at the work and how to take it over, a sentence each."""
    lines = [f"review it with `git diff {branch.base}...{branch.name}`, take it over with `git merge {branch.name}`"]
    if has_uncommitted(branch):
        lines.append(f"some of it is in no commit yet: `{branch.worktree}`")
    return tuple(lines)


def has_uncommitted(branch: Branch) -> bool:
    """Whether the worktree holds anything that the tip of its branch does not; also when that cannot be found out.

    What the repository's own `.gitignore` files leave out does not count.
    """
    head = Path(branch.records, "HEAD")
    try:
        if not Path(branch.worktree).is_dir():
            return False
        if _read(head) != f"ref: refs/heads/{branch.name}\n".encode():
            return True
        tip = git.ask(branch.git_dir, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch.name}^{{commit}}")
        if tip is None:
            return True
        with git.borrowed(branch.git_dir) as (own, work):
            work["GIT_WORK_TREE"] = branch.worktree
            git.do(own, "read-tree", tip, work=work)
            listed = ("ls-files", "-z", "--modified", "--deleted", "--others", "--exclude-standard")
            return bool(git.do(own, *listed, work=work, timeout_s=LOOK_TIMEOUT_S))
    except (OSError, SbxError):
        return True


def release(paths: Paths, sandbox: str) -> str | None:
    """Delete a deleted sandbox's worktree by rule 4; returns its path when it is kept.

    Raises:
        SbxError: when it cannot be deleted.
    """
    branch = find(paths, sandbox)
    if branch is None:
        return None
    if has_uncommitted(branch):
        return branch.worktree
    _delete(branch, _home(paths, sandbox))
    return None


def _home(paths: Paths, sandbox: str) -> Path:
    return Path(os.path.realpath(paths.data)) / BRANCHES_FOLDER / sandbox


def _repository(text: str) -> Path:
    """Return the working tree that a folder is in, by rule 1."""
    try:
        folder = Path(text).expanduser().resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise SbxError(f"`{text}` is no folder that can be opened", status=EXIT_USAGE) from error
    for candidate in (folder, *folder.parents):
        if os.path.lexists(candidate / ".git"):
            _check_repository(candidate / ".git")
            return candidate
    raise SbxError(
        f"`{folder}` is in no git repository",
        hint="make one with `git init` and a first commit, or leave `--branch` out",
        status=EXIT_USAGE,
    )


def _check_repository(git_dir: Path) -> None:
    """Check rule 1: a folder of this user's, with refs as files and all its objects in itself."""
    status = git_dir.lstat() if os.path.lexists(git_dir) else None
    if status is None or not stat.S_ISDIR(status.st_mode):
        raise SbxError(
            f"`{git_dir}` is not a folder: a linked worktree, a submodule or a link",
            hint="use `--branch` in the repository's main working tree",
        )
    if status.st_uid != os.geteuid():
        raise SbxError(f"`{git_dir}` belongs to another user", hint="use `--branch` as its owner")
    for name in (*_WRITABLE, "refs/heads", "objects/info"):
        if not (git_dir / name).is_dir() or (git_dir / name).is_symlink():
            raise SbxError(
                f"`{git_dir}` has no plain folder `{name}`",
                hint="branch mode needs refs as files: `git refs migrate --ref-format=files`",
            )
    if _read(git_dir / "objects" / "info" / "alternates"):
        raise SbxError(
            f"`{git_dir}` borrows objects from another repository, which the sandbox cannot see",
            hint="copy them: `git repack -a -d`, then delete `.git/objects/info/alternates`",
        )


def _make(planned: Planned, home: Path) -> Branch:
    git_dir = planned.repository / ".git"
    start = git.ask(git_dir, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if start is None:
        raise SbxError(f"`{planned.repository}` has no commit yet", hint="a branch starts from one: `git commit`")
    base = git.ask(git_dir, "symbolic-ref", "--quiet", "--short", "HEAD") or start[:12]
    ref = f"refs/heads/{planned.branch}"
    is_new = git.ask(git_dir, "show-ref", "--verify", "--quiet", ref) is None
    if not is_new and os.path.lexists(git_dir / "logs" / ref):
        raise SbxError(
            f"the branch `{planned.branch}` exists already",
            hint="name a new one; it starts from what is checked out here",
        )
    worktree = home / planned.repository.name
    home.mkdir(mode=0o700, parents=True)
    try:
        chosen = ("--no-track", "-b", planned.branch) if is_new else ()
        what = start if is_new else planned.branch
        git.do(git_dir, "worktree", "add", "--quiet", "--no-checkout", *chosen, "--", str(worktree), what)
        records = _read(worktree / ".git") or b""
        branch = Branch(
            name=planned.branch,
            base=base,
            repository=str(planned.repository),
            worktree=str(worktree),
            records=records.decode().removeprefix("gitdir: ").removesuffix("\n"),
        )
        _check_out(branch)
        _write_new(Path(branch.records, "config.worktree"), b"")
        _write_new(home / _RECORD, json.dumps(asdict(branch)).encode())
    except BaseException:
        _undo(git_dir, worktree, home, ref if is_new else None, start)
        raise
    return branch


def _check_out(branch: Branch) -> None:
    """Fill the worktree with its branch's files, by rule 2 of `session/workspace/git.py`: files that a filter would
    have made (large file storage) stay as they were committed."""
    tip = git.do(branch.git_dir, "rev-parse", "--verify", f"refs/heads/{branch.name}^{{commit}}").decode().strip()
    with git.borrowed(branch.git_dir) as (own, work):
        work |= {"GIT_WORK_TREE": branch.worktree, "GIT_INDEX_FILE": f"{branch.records}/index"}
        git.do(own, "read-tree", "-u", "--reset", tip, work=work)


def _undo(git_dir: Path, worktree: Path, home: Path, ref: str | None, start: str) -> None:
    """Take back what a failed start made; the branch only while it is where it began."""
    tree.delete_tree(home)
    for records in (git_dir / "worktrees").glob("*"):
        if _read(records / "gitdir") == f"{worktree}/.git\n".encode():
            tree.delete_tree(records)
    if ref is not None:
        with contextlib.suppress(SbxError):
            git.do(git_dir, "update-ref", "-d", ref, start)


def _delete(branch: Branch, home: Path) -> None:
    records = Path(branch.records)
    is_ours = _read(records / "gitdir") == _ties(branch)[records / "gitdir"]
    tree.delete_tree(home)
    if is_ours:
        tree.delete_tree(records)


def _mounts(branch: Branch) -> tuple[Mount, ...]:
    """Rule 2, as folders: what is read-only holds what is not, and that again what is."""
    git_dir = PurePosixPath(branch.git_dir)
    return (
        Mount(PurePosixPath(branch.worktree), is_read_only=False),
        Mount(git_dir, is_read_only=True),
        *(Mount(git_dir / name, is_read_only=False) for name in _WRITABLE),
        Mount(git_dir / "objects" / "info", is_read_only=True),
        Mount(PurePosixPath(branch.records), is_read_only=False),
    )


def _identity(branch: Branch, sandbox: Sandbox, environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return git's settings inside, as variables (git-config(1), GIT_CONFIG_COUNT): who commits, and nothing that would
    write to what rule 2 keeps."""
    home = environ.get("HOME") or "/"
    name = git.own_setting(branch.git_dir, "user.name", home) or sandbox.agent
    email = git.own_setting(branch.git_dir, "user.email", home) or f"{sandbox.agent}@{sandbox.name}.invalid"
    settings = {
        "user.name": name,
        "user.email": email,
        "core.logAllRefUpdates": "false",
        "gc.auto": "0",
        "maintenance.auto": "false",
    }
    variables = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings.items()):
        variables |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return tuple(variables.items())


def _ties(branch: Branch) -> dict[Path, bytes]:
    """Return the files that tie a worktree to its repository, as they have to be (gitrepository-layout(5))."""
    records = Path(branch.records)
    return {
        Path(branch.worktree, ".git"): f"gitdir: {branch.records}\n".encode(),
        records / "gitdir": f"{branch.worktree}/.git\n".encode(),
        records / "commondir": b"../..\n",
    }


def _set_reflog_aside(branch: Branch, home: Path) -> None:
    """Move the branch's reflog, which commits on the host made, out of the way: inside it could not be written, and git
    then refuses to commit. The worktree's own reflog has the same lines."""
    log = branch.git_dir / "logs" / "refs" / "heads" / branch.name
    if os.path.realpath(log.parent) != str(log.parent) or not os.path.lexists(log) or log.is_dir():
        return
    taken = len([path for path in home.iterdir() if re.fullmatch(r"reflog-\d+", path.name)])
    os.rename(log, home / f"reflog-{taken + 1}")  # noqa: PTH104 - a link in its place is moved, not followed


def _read(path: Path) -> bytes | None:
    """Return what is in a regular file, at most `FILE_BYTES_MAX`; None when there is none, and no link is followed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(descriptor, "rb") as file:  # noqa: PTH123 - pathlib opens no descriptors
        return file.read(FILE_BYTES_MAX) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - pathlib opens no descriptors
        file.write(content)
