"""What the agent could leave in a workspace for its owner to run: made read-only where that can be, reported where not.

Rules (threats J01 to J13):

1. Before anything runs inside, every match of the sandbox's patterns below its writable folders becomes a mount of its
   own, read-only. The folders above it become mounts too, which the kernel lets nobody inside rename: those inside the
   repository for what is in a `.git`, all of them for anything else. So does what lies above a folder given as `:ro`.
2. A repository without `.git/hooks` gets an empty one while that is protected, as `git init` makes it: what is not
   there cannot be mounted over. A `.git` that is a file is protected as a file.
3. What cannot be covered is said: a match that is a link, one beyond `GUARDS_MAX`, and whatever is made during the
   session (a new repository, a nested one under another name).
4. What runs by itself and changed is on record when a session ends (`session/workspace/survey.py`), also after a kill.
5. A file of the host's that one of ours stands over, as those that tie a branch to its repository, is guarded beneath
   it: for when the host replaces it, and for a machine, whose root can take away what stands there.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from sandhold.linux.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from sandhold.model.event import CHANGES_MAX, FileChange, WorkspaceChanged
from sandhold.model.sandbox import Mount
from sandhold.session.workspace.patterns import parse_pattern
from sandhold.session.workspace.survey import GIT, Survey, changes, from_json, look, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sandhold.model.event import EventId
    from sandhold.model.sandbox import Sandbox

GUARDS_MAX: Final = 512  # mounts; a few microseconds each, and the kernel allows a namespace 100,000
BASELINE_BYTES_MAX: Final = 32 << 20  # FILES_MAX entries of a long path each, for a few folders
BASELINE: Final = "workspace.json"
HOOKS: Final = ".git/hooks"


@dataclass(frozen=True, slots=True)
class Protection:
    """What to mount over the folders, what could not be, and what each folder looked like before anything ran, but for
    the paths below it that `stops_at` names."""

    guarded: tuple[Mount, ...]
    notes: tuple[str, ...]
    before: Mapping[str, Survey]
    stops_at: Mapping[str, tuple[str, ...]]


def protect(sandbox: Sandbox, covered: Sequence[str] = ()) -> Protection:
    """Look through a sandbox's folders and say what to guard, by rules 1 to 3 and 5. `covered` are the paths of files
    that are put inside."""
    taken = {str(mount.path) for mount in sandbox.mounts}
    guards: dict[str, Mount] = {}
    notes: list[str] = []
    before: dict[str, Survey] = {}
    stops_at: dict[str, tuple[str, ...]] = {}
    patterns = [parse_pattern(text.removesuffix("/**")) for text in sandbox.protected]
    keeps_git = HOOKS in sandbox.protected
    for top in _writable(sandbox.mounts):
        stops = _below(top, sandbox.mounts)
        found = look(top, patterns, stops_at=stops)
        before[top] = found
        stops_at[top] = tuple(stops)
        made = _make_missing_hooks(top, found) if keeps_git else []
        if found.unseen is not None:
            notes.append(f"`{top}` was not looked through in whole ({found.unseen}): what is there is not protected")
        git_files = [path for path in found.repositories if _kind(top, path) == "file"] if keeps_git else []
        for path in sorted({*found.protected, *git_files, *made}):
            _guard(top, path, guards, notes)
        for path in stops:
            if any(str(mount.path) == f"{top}/{path}" and mount.is_read_only for mount in sandbox.mounts):
                _pin(top, path, guards)
    beneath = {path: Mount(PurePosixPath(path), is_read_only=True, is_file=True) for path in _beneath(sandbox, covered)}
    kept = beneath | {path: mount for path, mount in guards.items() if path not in taken}
    if len(kept) > GUARDS_MAX:
        notes.append(f"only {GUARDS_MAX} of {len(kept)} files and folders that should be read-only inside are")
    return Protection(tuple(list(kept.values())[:GUARDS_MAX]), tuple(notes), before, stops_at)


def write_baseline(folder: Path, protection: Protection) -> None:
    """Keep what the folders looked like, in the sandbox's own folder on the host, for the end of the session."""
    values = {
        top: {**to_json(survey), "stops_at": protection.stops_at[top]} for top, survey in protection.before.items()
    }
    new = folder / f"{BASELINE}.new"
    new.write_text(json.dumps(values), "ascii")
    new.replace(folder / BASELINE)


def changed_since(folder: Path, event: EventId) -> WorkspaceChanged | None:
    """Compare with what was kept when the session started (rule 4); None when nothing that runs by itself changed."""
    found: list[FileChange] = []
    unseen: list[str] = []
    for top, (survey, stops_at) in _read_baseline(folder).items():
        after = look(top, stops_at=stops_at)
        unseen += [f"{top}: {each.unseen}" for each in (survey, after) if each.unseen is not None]
        found += [FileChange(each.what, f"{top}/{each.path}", each.why) for each in changes(survey, after)]
    if not found and not unseen:
        return None
    return WorkspaceChanged(
        event, tuple(found[:CHANGES_MAX]), max(0, len(found) - CHANGES_MAX), "; ".join(dict.fromkeys(unseen)) or None
    )


def forget_baseline(folder: Path) -> None:
    """Let go of what was kept: what became of it is on record."""
    with contextlib.suppress(OSError):
        (folder / BASELINE).unlink(missing_ok=True)


def _read_baseline(folder: Path) -> dict[str, tuple[Survey, tuple[str, ...]]]:
    try:
        with (folder / BASELINE).open("rb") as file:
            values = json.loads(file.read(BASELINE_BYTES_MAX))
        return {top: (from_json(each), tuple(map(str, each["stops_at"]))) for top, each in values.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _writable(mounts: Sequence[Mount]) -> list[str]:
    """Return the writable folders; one that lies in another has a look of its own, and parts of a repository that are
    mounted by themselves (`--branch`) are guarded by what mounts them."""
    return [str(mount.path) for mount in mounts if not mount.is_read_only and GIT not in mount.path.parts]


def _below(top: str, mounts: Sequence[Mount]) -> list[str]:
    """Return the sandbox's other folders below one, as paths from it."""
    return [str(mount.path.relative_to(top)) for mount in mounts if top in map(str, mount.path.parents)]


def _beneath(sandbox: Sandbox, covered: Sequence[str]) -> list[str]:
    """Rule 5: return the covered paths at which a sandbox's folders have a file of the host's."""
    tops = [str(mount.path) for mount in sandbox.mounts]
    return [
        path
        for path in covered
        if any(path.startswith(f"{top}/") and _kind(top, path.removeprefix(f"{top}/")) == "file" for top in tops)
    ]


def _guard(top: str, path: str, guards: dict[str, Mount], notes: list[str]) -> None:
    kind = _kind(top, path)
    if kind is None:
        notes.append(f"`{top}/{path}` is a link or no plain file: it cannot be made read-only inside")
        return
    _pin(top, path, guards)
    whole = f"{top}/{path}"
    guards[whole] = Mount(PurePosixPath(whole), is_read_only=True, is_file=kind == "file")


def _pin(top: str, path: str, guards: dict[str, Mount]) -> None:
    """Make mounts of the folders above a path, by rule 1."""
    names = path.split("/")
    if names[-1] == GIT:
        return  # a file that leads to a repository: a checkout removes and makes the folder that it is in
    first = len(names) - 1 - names[::-1].index(GIT) + 1 if GIT in names[:-1] else 1
    for count in range(first, len(names)):
        whole = f"{top}/{'/'.join(names[:count])}"
        guards.setdefault(whole, Mount(PurePosixPath(whole), is_read_only=False))


def _kind(top: str, path: str) -> str | None:
    """Return `folder` or `file`, None for anything else or when a link is on the way."""
    try:
        with _opened(top, path) as fd:
            mode = os.fstat(fd).st_mode
    except OSError:
        return None
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else None


def _make_missing_hooks(top: str, found: Survey) -> list[str]:
    """Rule 2: return what was made. A `.git` without `HEAD` is no repository yet."""
    made = []
    for path in found.repositories:
        hooks = f"{path}/hooks"
        if hooks in found.protected:
            continue
        with contextlib.suppress(OSError), _opened(top, path, os.O_DIRECTORY) as git:
            owner = os.fstat(git)
            os.stat("HEAD", dir_fd=git, follow_symlinks=False)
            os.mkdir("hooks", 0o700, dir_fd=git)
            os.chmod("hooks", stat.S_IMODE(owner.st_mode), dir_fd=git)
            os.chown("hooks", owner.st_uid, owner.st_gid, dir_fd=git, follow_symlinks=False)
            made.append(hooks)
    return made


@contextlib.contextmanager
def _opened(top: str, path: str, flags: int = 0) -> Iterator[int]:
    """Open what is at a path below a folder, without following any link."""
    folder = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fd = openat2(folder, path, os.O_PATH | flags, RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH)
    finally:
        os.close(folder)
    try:
        yield fd
    finally:
        os.close(fd)
