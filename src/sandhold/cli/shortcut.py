"""`sbx exec` and `sbx run` in their plainest form: the same request, with a quarter of the imports.

Whatever is not plain (another option, a name, an agent or a start that needs words, anything that went wrong before the
session took the request) is left to `cli/executing.py` and `cli/running.py`, as if this had never been tried. What the
session took is never asked for again.
"""

from __future__ import annotations

import json
import os
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from sandhold.cli import plain_words
from sandhold.session import packets
from sandhold.store import database, glances

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    from sandhold.cli.plain_words import Plain
    from sandhold.session.launching import Begun
    from sandhold.session.terminals.copies import Outcome
    from sandhold.store.database import Database
    from sandhold.store.glances import Glance


class Folders(NamedTuple):
    """The folders that `Paths` names, as texts."""

    state: str
    data: str
    config: str

    def sandbox(self, name: str) -> str:
        """Return the folder of one sandbox (`Paths.sandbox`)."""
        return f"{self.state}/sandboxes/{name}"


class Asked(NamedTuple):
    """What a session is asked for: the request (`control.Start`), for the sandbox of that name."""

    sandbox: str
    glance: Glance
    request: bytes
    at_terminal: bool
    wants_input: bool
    is_agent: bool


def take(words: Sequence[str], environ: Mapping[str, str]) -> int | Begun | None:
    """Run the command and return its exit status; None, with nothing done, when this is not the way for these words.

    Where nothing but a running session is missing, one is begun. It is returned for the long way, which loads the rest
    meanwhile, when there may be something to say or to make.
    """
    plain = plain_words.read(words)
    folders = folders_of(environ)
    if plain is None or folders is None or "_SBX_COMPLETE" in environ:
        return None
    asked = asked_for(plain, folders, environ)
    if asked is None:
        return None
    folder = folders.sandbox(asked.sandbox)
    sock = packets.connect(folder)
    if sock is None:
        from sandhold.cli import early_starts, outcomes  # noqa: PLC0415  with what starts processes

        begun = early_starts.begin(folder, asked.sandbox, asked.glance, environ)
        if begun is None or not early_starts.is_plain(folders.data, asked.glance):
            return begun
        sock = early_starts.reached(begun, folder)
        if sock is None:
            return None
        outcomes.say_notes(folder)
    with sock:
        return _run(sock, asked, folders, environ)


def folders_of(environ: Mapping[str, str]) -> Folders | None:
    """Return the folders of this user, where the environment alone says which they are."""
    home = environ.get("HOME", "")
    found = []
    for variable, default in (
        ("XDG_STATE_HOME", ".local/state"),
        ("XDG_DATA_HOME", ".local/share"),
        ("XDG_CONFIG_HOME", ".config"),
    ):
        folder = environ.get(variable, "")
        if not folder.startswith("/") and not home.startswith("/"):
            return None
        found.append(f"{folder if folder.startswith('/') else f'{home}/{default}'}/sandhold")
    return Folders(*found)


def asked_for(plain: Plain, folders: Folders, environ: Mapping[str, str]) -> Asked | None:
    """Return what to ask of which session; None when the database does not say, a variable that goes along is not set,
    or the agent's user has to be told something first."""
    looked_at = database.current(f"{folders.state}/sandhold.db")
    if looked_at is None:
        return None
    with closing(looked_at):
        found = _sandbox(looked_at, plain)
    if found is None:
        return None
    sandbox, glance = found
    given = dict(plain.variables)
    if not {*environ, *given}.issuperset(glance.host_variables):
        return None
    variables = [*((name, environ[name]) for name in glance.host_variables if name in environ), *plain.variables]
    is_agent = plain.argv is None
    if is_agent and not _can_sign_in(glance, sandbox, folders, environ):
        return None
    at_terminal = is_agent and os.isatty(0) and os.isatty(1)
    request = _request(plain, variables, environ, at_terminal=at_terminal)
    return Asked(sandbox, glance, request, at_terminal, plain.wants_input, is_agent)


def _sandbox(looked_at: Database, plain: Plain) -> tuple[str, Glance] | None:
    """Find the sandbox of that name, else that of the agent of that name in this folder."""
    found = glances.look(looked_at, plain.name)
    if found is not None or plain.argv is not None:
        return None if found is None else (plain.name, found)
    from sandhold.model.sandbox_name import default_name  # noqa: PLC0415  most name a sandbox

    try:
        folder = os.getcwd()  # noqa: PTH109  pathlib is a tenth of a short command
    except FileNotFoundError:
        return None
    name = default_name(plain.name, folder.rpartition("/")[2])
    found = glances.look(looked_at, name)
    is_its = found is not None and (found.agent, found.mounts) == (plain.name, ((folder, False),))
    return (name, found) if found is not None and is_its else None


def _can_sign_in(glance: Glance, sandbox: str, folders: Folders, environ: Mapping[str, str]) -> bool:
    """Whether the user of an agent need not be told how to sign in; False also when that takes a closer look."""
    from sandhold.agents import shipped  # noqa: PLC0415  for agents only
    from sandhold.session.furnish.login import missing_login  # noqa: PLC0415

    if os.path.lexists(f"{folders.config}/agents/{glance.agent}.toml"):
        return False  # the user's own file, which can have mistakes in it
    try:
        agent = shipped.read_shipped(glance.agent)
    except OSError:
        return False
    given = {*glance.variables, *glance.host_variables, *agent.variables}
    return missing_login(agent, sandbox, folders.sandbox(sandbox), given, environ) is None


def _request(plain: Plain, variables: list[tuple[str, str]], environ: Mapping[str, str], *, at_terminal: bool) -> bytes:
    request: dict[str, object] = {
        "type": "start",
        "argv": plain.argv,
        "arguments": plain.arguments,
        "environment": variables,
        "user": plain.user,
        "folder": plain.folder,
        "wants_terminal": at_terminal,
    }
    if at_terminal:
        from sandhold.session.terminals.terminal import terminal_size  # noqa: PLC0415  with what a terminal needs

        own = [(name, environ[name]) for name in ("TERM", "COLORTERM") if name in environ]
        rows, columns = terminal_size()
        request |= {"environment": [*own, *variables], "rows": rows, "columns": columns}
    return json.dumps(request, separators=(",", ":")).encode("ascii")


def _run(sock: socket.socket, asked: Asked, folders: Folders, environ: Mapping[str, str]) -> int | None:
    """Run it, and say what the long ways say then; None when the session did not take it."""
    from sandhold.cli import outcomes, parting  # noqa: PLC0415  of no use before there is a session to talk to

    folder = folders.sandbox(asked.sandbox)
    is_taken = True
    try:
        outcome = _attach(sock, asked)
        outcomes.say(outcome, asked.sandbox, folder, at_terminal=asked.at_terminal)
        if asked.is_agent:
            parting.say_end(folder, asked.sandbox, environ)
    except packets.UntakenError:
        is_taken = False
        return None
    else:
        return outcome.status
    finally:
        if is_taken and asked.is_agent:
            parting.say_review(folders.data, asked.sandbox, environ)


def _attach(sock: socket.socket, asked: Asked) -> Outcome:
    if asked.at_terminal:
        from sandhold.session.terminals.terminal import attach  # noqa: PLC0415

        return attach(sock, asked.request, wants_terminal=True, wants_input=True)
    from sandhold.session.terminals.piped import run_piped  # noqa: PLC0415  without a terminal, with none of its modules

    return run_piped(sock, asked.request, wants_input=asked.wants_input)
