"""What of a workspace runs by itself, seen at one moment; and what changed between two.

Rules:

1. No link is followed: every folder is opened from the one above it, and a link is a file whose content is where it
   leads.
2. A file is told by its content where that is small, else by what only the kernel can set (its change time, inode(7)).
3. A look ends: at `SURVEY_S_MAX`, `FOLDERS_MAX` and `FILES_MAX`. What was not looked at then is said, never left out.
4. Names are bytes that may be no text; they come as Python's own escapes of those and are escaped again when shown.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sandhold.session.workspace.patterns import auto_run, matches

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandhold.session.workspace.patterns import Pattern, Rule

SURVEY_S_MAX: Final = 3.0  # a repository of a hundred thousand files takes less than one
FOLDERS_MAX: Final = 100_000
FILES_MAX: Final = 5_000  # that run by themselves; a project has dozens
DEPTH_MAX: Final = 60  # each level holds a descriptor while it is looked through
CONTENT_BYTES_MAX: Final = 256 << 10  # read and hashed; a build file is a tenth of this
GIT: Final = ".git"


@dataclass(frozen=True, slots=True)
class Seen:
    """One file as it was: `print` is the hash of a small one's content, else empty, and then `changed_ns` counts."""

    mode: int
    size: int
    changed_ns: int
    print: str

    def same_as(self, other: Seen) -> bool:
        """Whether it is as it was, by rule 2."""
        if (self.mode, self.size) != (other.mode, other.size):
            return False
        return self.print == other.print if self.print and other.print else self.changed_ns == other.changed_ns


@dataclass(slots=True)
class Survey:
    """What a look found below one folder, by paths from its top. `protected` are matches of the patterns that were
    given, `repositories` every `.git`; `unseen` says why some of it was not looked at."""

    files: dict[str, Seen] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    protected: list[str] = field(default_factory=list)
    repositories: list[str] = field(default_factory=list)
    unseen: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One file that runs by itself and is not what it was: `what` is `new`, `changed` or `gone`."""

    what: str
    path: str
    why: str


def look(folder: str, patterns: Sequence[Pattern] = (), *, stops_at: Sequence[str] = ()) -> Survey:
    """Look through a folder by rules 1 to 3; `stops_at` are paths below that have a look of their own."""
    survey = Survey()
    walk = _Walk(survey, tuple(patterns), frozenset(stops_at), time.monotonic() + SURVEY_S_MAX)
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        survey.unseen = error.strerror or str(error)
        return survey
    walk.folder(fd, (), ())
    return survey


def changes(before: Survey, after: Survey) -> list[Change]:
    """Return what runs by itself and is new, changed or gone, by path."""
    found = []
    for path in sorted({*before.files, *after.files}):
        was, is_now = before.files.get(path), after.files.get(path)
        why = after.reasons.get(path) or before.reasons[path]
        if was is None:
            found.append(Change("new", path, why))
        elif is_now is None:
            if after.unseen is None:
                found.append(Change("gone", path, why))
        elif not was.same_as(is_now):
            found.append(Change("changed", path, why))
    return found


@dataclass(slots=True)
class _Walk:
    """A survey under way, what it looks for, and where and when it stops."""

    survey: Survey
    patterns: tuple[Pattern, ...]
    stops_at: frozenset[str]
    deadline: float
    folders: int = 0

    def folder(self, fd: int, names: tuple[str, ...], deep: tuple[Rule, ...]) -> None:
        """Look through one folder and those below; takes the descriptor over. `deep` are rules from above."""
        try:
            self.folders += 1
            if self._is_over(names):
                return
            known = auto_run()
            rules, deep = known.rules_in(names, deep)
            guarded = [each for each in self.patterns if each.fits_folder(names)]
            below = []
            with os.scandir(fd) as entries:
                for entry in entries:
                    path = "/".join((*names, entry.name))
                    if any(matches(each.name, entry.name) for each in guarded):
                        self.survey.protected.append(path)
                    if entry.name == GIT:
                        self.survey.repositories.append(path)
                    if entry.is_dir(follow_symlinks=False):
                        if path not in self.stops_at and not known.is_skipped(entry.name, names):
                            below.append(entry.name)
                    elif (why := known.why(entry.name, rules)) is not None:
                        self._file(fd, entry.name, path, why)
            for name in sorted(below):
                self._enter(fd, name, names, deep)
        except OSError as error:
            self.survey.unseen = f"{'/'.join(names) or '.'}: {error.strerror or error}"
        finally:
            os.close(fd)

    def _enter(self, fd: int, name: str, names: tuple[str, ...], deep: tuple[Rule, ...]) -> None:
        try:
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        except FileNotFoundError:
            return  # it went while we looked
        except OSError as error:
            self.survey.unseen = f"{'/'.join((*names, name))}: {error.strerror or error}"
            return
        self.folder(inner, (*names, name), deep)

    def _file(self, fd: int, name: str, path: str, why: str) -> None:
        if len(self.survey.files) >= FILES_MAX:
            self.survey.unseen = f"more than {FILES_MAX} files run by themselves here"
            return
        seen = _seen(fd, name)
        if seen is not None:
            self.survey.files[path], self.survey.reasons[path] = seen, why

    def _is_over(self, names: tuple[str, ...]) -> bool:
        if self.folders > FOLDERS_MAX:
            self.survey.unseen = f"more than {FOLDERS_MAX} folders"
        elif len(names) > DEPTH_MAX:
            self.survey.unseen = f"folders deeper than {DEPTH_MAX}"
        elif time.monotonic() > self.deadline:
            self.survey.unseen = f"looking took longer than {SURVEY_S_MAX:g} seconds"
        else:
            return False
        return True


def _seen(fd: int, name: str) -> Seen | None:
    """Look at one file by rules 1 and 2; None when it is gone by now."""
    try:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            content = os.fsencode(os.readlink(name, dir_fd=fd))
        elif stat.S_ISREG(status.st_mode) and status.st_size <= CONTENT_BYTES_MAX:
            content = _content(fd, name)
        else:
            content = b""
    except FileNotFoundError:
        return None
    except OSError:
        content = b""
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    digest = hashlib.sha256(content).hexdigest() if content or status.st_size == 0 else ""
    return Seen(status.st_mode, status.st_size, status.st_ctime_ns, digest)


def _content(fd: int, name: str) -> bytes:
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    try:
        return os.read(file, CONTENT_BYTES_MAX + 1)
    finally:
        os.close(file)


def to_json(survey: Survey) -> Mapping[str, object]:
    """Write what is compared later as values of JSON."""
    files = {
        path: [seen.mode, seen.size, seen.changed_ns, seen.print, survey.reasons[path]]
        for path, seen in survey.files.items()
    }
    return {"files": files, "unseen": survey.unseen}


def from_json(values: Mapping[str, object]) -> Survey:
    """Read what `to_json` wrote.

    Raises:
        ValueError: when it is something else.
    """
    survey = Survey()
    files, unseen = values.get("files"), values.get("unseen")
    if not isinstance(files, dict) or not (unseen is None or isinstance(unseen, str)):
        raise ValueError("not a survey")
    for path, (mode, size, changed_ns, digest, why) in files.items():
        survey.files[path] = Seen(int(mode), int(size), int(changed_ns), str(digest))
        survey.reasons[path] = str(why)
    survey.unseen = unseen
    return survey
