"""Patterns for files of a project, and those of the files that run by themselves, which are data: `auto_run.toml`.

A pattern is names between slashes, each a glob for one name. It matches a path from its end; with a slash in front,
from the top of the folder. `**` as its last name stands for everything below.
"""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass
from fnmatch import translate
from typing import TYPE_CHECKING, Final

from sandhold.errors import EXIT_USAGE, SbxError
from sandhold.paths import SHIPPED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PATTERN_LENGTH_MAX: Final = 200
_DEEP: Final = "**"
_WILD: Final = "*"


Name = str | re.Pattern[str]
"""A name, or a glob for names: compiling them all would cost each start ten milliseconds."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern, ready to match. `parents` are the folders it names, `name` the last of its names."""

    text: str
    parents: tuple[Name, ...]
    name: Name
    is_deep: bool
    is_from_top: bool

    def fits_folder(self, folder: Sequence[str]) -> bool:
        """Whether what it matches by name may be directly in a folder, given by the names on its path.

        Of a deep pattern that is the topmost such folder.
        """
        count = len(self.parents)
        if self.is_from_top and len(folder) != count:
            return False
        return len(folder) >= count and self._names(folder[len(folder) - count :])

    def _names(self, folder: Sequence[str]) -> bool:
        pairs = zip(self.parents, folder, strict=False)
        return len(folder) == len(self.parents) and all(matches(each, name) for each, name in pairs)


@dataclass(frozen=True, slots=True)
class Rule:
    """A name that runs by itself, with the reason; `excepted` are names that do not."""

    name: Name
    why: str
    excepted: tuple[Name, ...]

    def fits(self, name: str) -> bool:
        """Whether it is about a file of that name."""
        return matches(self.name, name) and not any(matches(each, name) for each in self.excepted)


@dataclass(frozen=True, slots=True)
class AutoRun:
    """Every rule, arranged so that a file costs one look into a table and one match.

    `anywhere` are plain names with their reasons, `globs` the rules for other names anywhere, `any_glob` matches what
    one of those does. `placed` are the rules for certain folders, by the last of those, `wild` those whose last folder
    is a glob. `skipped` are folders not looked into, by their name.
    """

    anywhere: Mapping[str, str]
    globs: tuple[Rule, ...]
    any_glob: re.Pattern[str]
    placed: Mapping[str, tuple[tuple[Pattern, Rule], ...]]
    wild: tuple[tuple[Pattern, Rule], ...]
    skipped: Mapping[str, tuple[Pattern, ...]]

    def rules_in(self, folder: Sequence[str], inherited: tuple[Rule, ...]) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
        """Return the rules that hold in a folder beside those for anywhere, and those that hold below it too."""
        placed = self.placed.get(folder[-1], ()) if folder else ()
        fitting = [(pattern, rule) for pattern, rule in (*placed, *self.wild) if pattern.fits_folder(folder)]
        below = (*inherited, *(rule for pattern, rule in fitting if pattern.is_deep))
        return (*inherited, *(rule for _, rule in fitting)), below

    def why(self, name: str, rules: Sequence[Rule]) -> str | None:
        """Return why a file of that name runs by itself in a folder with these rules, None when it does not."""
        found = self.anywhere.get(name)
        if found is None and rules:
            found = next((rule.why for rule in rules if rule.fits(name)), None)
        if found is None and self.any_glob.match(name):
            found = next((rule.why for rule in self.globs if rule.fits(name)), None)
        return found

    def is_skipped(self, name: str, folder: Sequence[str]) -> bool:
        """Whether a folder of that name in this folder is not looked into."""
        return any(pattern.fits_folder(folder) for pattern in self.skipped.get(name, ()))


def matches(wanted: Name, name: str) -> bool:
    """Whether a name is the one that is wanted, or fits the glob."""
    return wanted == name if isinstance(wanted, str) else wanted.match(name) is not None


def parse_pattern(text: str) -> Pattern:
    """Read a pattern.

    Raises:
        SbxError: when it is none, or could match the folder itself or something outside.
    """
    names = text.strip("/").split("/")
    is_odd = len(text) > PATTERN_LENGTH_MAX or any(ord(character) < 32 for character in text)
    if is_odd or any(name in ("", ".", "..") for name in names) or names == [_DEEP]:
        raise SbxError(
            f"`{text}` is no pattern of files in a folder",
            hint="for example `Makefile`, `.github/workflows` or `/scripts/*.sh`",
            status=EXIT_USAGE,
        )
    is_deep = names[-1] == _DEEP
    parents = tuple(map(_name, names[:-1]))
    return Pattern(text, parents, _name("*" if is_deep else names[-1]), is_deep, text.startswith("/"))


@functools.cache
def auto_run() -> AutoRun:
    """Read the files that run by themselves, from the data that is part of this package."""
    data = tomllib.loads((SHIPPED / "session" / "workspace" / "auto_run.toml").read_text("utf-8"))
    anywhere: dict[str, str] = {}
    globs: list[Rule] = []
    globs_text: list[str] = []
    placed: dict[str, list[tuple[Pattern, Rule]]] = {}
    skipped: dict[str, list[Pattern]] = {}
    for group in data["group"]:
        excepted = tuple(map(_name, group.get("except", ())))
        for text in group["files"]:
            pattern = parse_pattern(text)
            rule = Rule(pattern.name, group["why"], excepted)
            if pattern.parents:
                last = text.strip("/").split("/")[-2]
                placed.setdefault(last if _is_plain(last) else _WILD, []).append((pattern, rule))
            elif _is_plain(text):
                anywhere[text] = group["why"]
            else:
                globs.append(rule)
                globs_text.append(translate(text))
    for text in data["skip"]:
        skipped.setdefault(text.split("/")[-1], []).append(parse_pattern(text))
    return AutoRun(
        anywhere=anywhere,
        globs=tuple(globs),
        any_glob=re.compile("|".join(globs_text)),
        placed={name: tuple(each) for name, each in placed.items() if name != _WILD},
        wild=tuple(placed.get(_WILD, ())),
        skipped={name: tuple(each) for name, each in skipped.items()},
    )


def _name(text: str) -> Name:
    return text if _is_plain(text) else re.compile(translate(text))


def _is_plain(name: str) -> bool:
    return not any(character in name for character in "*?[")
