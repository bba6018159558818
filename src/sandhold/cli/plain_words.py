"""Command lines in their plainest form: a command inside, or an agent, without anything that needs another look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sandhold.model.sandbox_name import is_sandbox_name

if TYPE_CHECKING:
    from collections.abc import Sequence

_USERS: Final = ("agent", "root")
_DEFAULT_AGENT: Final = "shell"  # as `agents/definitions.py` has it


class Plain(NamedTuple):
    """A plain command line. `argv` is None for an agent, and `name` may be the agent's then."""

    name: str
    argv: tuple[str, ...] | None
    arguments: tuple[str, ...] = ()
    user: str = "agent"
    folder: str | None = None
    variables: tuple[tuple[str, str], ...] = ()
    wants_input: bool = True


def read(words: Sequence[str]) -> Plain | None:
    """Read the words of a command line after `sbx`; None when they are not plain."""
    if not words:
        return None
    match words[0]:
        case "exec":
            return _exec(list(words[1:]))
        case "run":
            return _run(list(words[1:]))
    return None


def _exec(rest: list[str]) -> Plain | None:
    user, folder, wants_input = "agent", None, False
    variables: dict[str, str] = {}
    while len(rest) > 2 and rest[0].startswith("-"):
        option = rest.pop(0)
        if option in ("-i", "--interactive"):
            wants_input = True
        elif option in ("-u", "--user") and rest[0] in _USERS:
            user = rest.pop(0)
        elif option in ("-w", "--workdir") and rest[0].startswith("/"):
            folder = rest.pop(0)
        elif option in ("-e", "--env") and _is_variable(rest[0]):
            name, _, variables[name] = rest.pop(0).partition("=")
        else:
            return None
    argv = rest[2:] if rest[1:2] == ["--"] else rest[1:]
    if not argv or not is_sandbox_name(rest[0]):
        return None
    return Plain(rest[0], tuple(argv), (), user, folder, tuple(variables.items()), wants_input)


def _run(rest: list[str]) -> Plain | None:
    own = rest[: rest.index("--")] if "--" in rest else rest
    name = own[0] if own else _DEFAULT_AGENT
    if len(own) > 1 or not is_sandbox_name(name):
        return None
    return Plain(name, None, tuple(rest[len(own) + 1 :]))


def _is_variable(text: str) -> bool:
    name, equals, _ = text.partition("=")
    return bool(equals) and name.isascii() and name.isidentifier()
