"""`sbx exec` into a running sandbox, typed in its plainest form: the same request, with a quarter of the imports.

Whatever is not plain (a terminal, another option, a name that needs words, a session that has to be started, anything
that went wrong before the command ran) is left to `cli/executing.py`, as if this had never been tried.
"""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Final, NamedTuple

from sandhold.session import packets
from sandhold.store import database, kept_variables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NAME_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-")
_NAME_CHARACTERS_MAX: Final = 63  # as `model/sandbox.py` has it
_USERS: Final = ("agent", "root")


class Plain(NamedTuple):
    """An `exec` in its plainest form."""

    name: str
    argv: tuple[str, ...]
    user: str
    folder: str | None
    variables: tuple[tuple[str, str], ...]
    wants_input: bool


def take(words: Sequence[str], environ: Mapping[str, str]) -> int | None:
    """Run the command and return its exit status; None, with nothing done, when this is not the way for these words."""
    plain = plain_form(words)
    state = state_folder(environ)
    if plain is None or state is None or "_SBX_COMPLETE" in environ:
        return None
    request = request_for(plain, f"{state}/sandhold.db", environ)
    folder = f"{state}/sandboxes/{plain.name}"
    sock = packets.connect(folder) if request is not None else None
    if request is None or sock is None:
        return None
    # The relay and its signals are of no use before there is a session to talk to.
    from sandhold.session.terminals.piped import run_piped  # noqa: PLC0415

    with sock:
        try:
            outcome = run_piped(sock, request, wants_input=plain.wants_input)
        except packets.ChannelError:
            return None
    if outcome.is_cut_off or outcome.detail is not None:
        _say_failure(outcome.detail, folder)
    return outcome.status


def _say_failure(detail: str | None, folder: str) -> None:
    from pathlib import Path  # noqa: PLC0415  what this takes is loaded only where there is something to say

    from sandhold.cli import attaching, output  # noqa: PLC0415

    output.fail(detail or attaching.why_cut_off(Path(folder)), None)


def plain_form(words: Sequence[str]) -> Plain | None:
    """Read the words of a command line after `sbx`; None when they are not plain."""
    rest = list(words)
    if not rest or rest.pop(0) != "exec":
        return None
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
    if not argv or not _is_name(rest[0]):
        return None
    return Plain(rest[0], tuple(argv), user, folder, tuple(variables.items()), wants_input)


def request_for(plain: Plain, path: str, environ: Mapping[str, str]) -> bytes | None:
    """Return the request (`control.Start`) that starts the command; None when the database at `path` does not say what
    goes along, or a variable that goes along is not set."""
    looked_at = database.current(path)
    if looked_at is None:
        return None
    with closing(looked_at):
        names = kept_variables.host_variables(looked_at, plain.name)
    if names is None or not set(names) <= {*environ, *(name for name, _ in plain.variables)}:
        return None
    of_host = [(name, environ[name]) for name in names if name in environ]
    request = {
        "type": "start",
        "argv": plain.argv,
        "arguments": (),
        "environment": [*of_host, *plain.variables],
        "user": plain.user,
        "folder": plain.folder,
        "wants_terminal": False,
    }
    return json.dumps(request, separators=(",", ":")).encode("ascii")


def _is_name(text: str) -> bool:
    return 0 < len(text) <= _NAME_CHARACTERS_MAX and _NAME_CHARACTERS.issuperset(text) and text[0] not in "_.-"


def _is_variable(text: str) -> bool:
    name, equals, _ = text.partition("=")
    return bool(equals) and name.isascii() and name.isidentifier()


def state_folder(environ: Mapping[str, str]) -> str | None:
    """Return the folder that `Paths.state` names, where the environment alone says which it is."""
    state, home = environ.get("XDG_STATE_HOME", ""), environ.get("HOME", "")
    if state.startswith("/"):
        return f"{state}/sandhold"
    return f"{home}/.local/state/sandhold" if home.startswith("/") else None
