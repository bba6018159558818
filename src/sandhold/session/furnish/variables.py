"""Variables that a user gives to a sandbox: `NAME=VALUE` with its value, `NAME` by its name alone.

Of the second kind only the name is kept. Each command gets the value that the variable has where that command was
typed, over the control socket: it stands on no command line, in no file and in no other process of the host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandhold.errors import EXIT_USAGE, SbxError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sandhold.model.sandbox import Sandbox

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Variables:
    """What was given: names with their values, and names of variables of the host; no name is in both."""

    valued: tuple[tuple[str, str], ...] = ()
    named: tuple[str, ...] = ()

    def on_top_of(self, sandbox: Sandbox) -> Variables:
        """Return these and those that a sandbox has from before, of which these replace the ones of the same name."""
        fresh = {name for name, _ in self.valued}.union(self.named)
        valued = [(name, value) for name, value in sandbox.environment if name not in fresh]
        named = [name for name in sandbox.host_variables if name not in fresh]
        return Variables((*valued, *self.valued), (*named, *self.named))

    def values(self, environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """Return all of them with the values that they have now."""
        return (*self.valued, *of_host(self.named, environ))


NO_VARIABLES: Final = Variables()


def parse_variables(texts: Sequence[str], environ: Mapping[str, str]) -> Variables:
    """Read `NAME=VALUE` or `NAME` for each text; of several with one name, the last counts.

    Raises:
        SbxError: when a name is none, or one that stands alone has no value in `environ`.
    """
    found: dict[str, str | None] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not _NAME.fullmatch(name):
            raise SbxError(f"`{text}` is no variable", hint="write `NAME=VALUE`, or `NAME` alone", status=EXIT_USAGE)
        if not equals and name not in environ:
            raise SbxError(f"the variable `{name}` is not set here", hint=f"write `{name}=VALUE`", status=EXIT_USAGE)
        found[name] = value if equals else None
    valued = tuple((name, value) for name, value in found.items() if value is not None)
    return Variables(valued, tuple(name for name, value in found.items() if value is None))


def of_host(names: Iterable[str], environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return those of the names that have a value in `environ`, with it."""
    return tuple((name, environ[name]) for name in names if name in environ)


def unset(names: Iterable[str], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return those of the names that have no value in `environ`."""
    return tuple(name for name in names if name not in environ)
