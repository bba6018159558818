"""From a command on the command line to one inside: the session is found or started, and the user attached to it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from sandhold.cli import outcomes, output
from sandhold.errors import EXIT_NOT_HELD, SbxError
from sandhold.session import control, starting
from sandhold.session.furnish.variables import of_host, unset
from sandhold.session.packets import UntakenError
from sandhold.session.terminals import terminal

if TYPE_CHECKING:
    from sandhold.model.sandbox import Sandbox
    from sandhold.paths import Paths
    from sandhold.session.furnish.variables import Variables
    from sandhold.session.launching import Begun

ATTACH_TRIES: Final = 5  # each meets a session that is ending; a sixth in a row is no coincidence


def variables_for(sandbox: Sandbox, given: Variables) -> tuple[tuple[str, str], ...]:
    """Return what a command gets beside what is kept with a value: the host's by their names, then what was given now.
    Says which of the host's are not set here."""
    for name in unset(given.on_top_of(sandbox).named, os.environ):
        output.warn(f"`{name}` is not set here, and `{sandbox.name}` was made to get it from you: it goes without")
    return (*of_host(sandbox.host_variables, os.environ), *given.values(os.environ))


def start_request(
    argv: tuple[str, ...] | None,
    arguments: tuple[str, ...],
    environment: tuple[tuple[str, str], ...],
    user: str,
    *,
    folder: str | None,
    wants_terminal: bool,
) -> control.Start:
    """Return what to ask of a session; with a terminal, what the user's own is called comes along."""
    rows, columns = terminal.terminal_size()
    if wants_terminal:
        host_terminal = {name: os.environ[name] for name in ("TERM", "COLORTERM") if name in os.environ}
        environment = (*host_terminal.items(), *environment)
    return control.Start(argv, arguments, environment, user, folder, wants_terminal, rows, columns)


def attach(
    paths: Paths, sandbox: Sandbox, request: control.Start, *, wants_input: bool, begun: Begun | None = None
) -> int:
    """Start a command and stay with it. A session that was just ending when we came does not take it: try the next."""
    encoded = control.encoded(request)
    for _ in range(ATTACH_TRIES):
        with reach(paths, sandbox, begun).channel as channel:
            begun = None
            try:
                outcome = terminal.attach(
                    channel.socket, encoded, wants_terminal=request.wants_terminal, wants_input=wants_input
                )
            except UntakenError:
                continue
        folder = str(paths.sandbox(sandbox.name))
        outcomes.say(outcome, sandbox.name, folder, at_terminal=request.wants_terminal)
        return outcome.status
    raise SbxError(
        f"the session of `{sandbox.name}` does not answer",
        hint=f"see `sbx logs {sandbox.name}`",
        status=EXIT_NOT_HELD,
    )


def reach(paths: Paths, sandbox: Sandbox, begun: Begun | None = None) -> starting.Reached:
    """Connect to the session of a sandbox, starting it if need be or waiting for the one `begun` already, and say what
    the user should know of that.

    Raises:
        SbxError: when it cannot be held.
    """
    reached = starting.reach(paths, sandbox.name, os.environ, begun)
    if reached.lost is not None:
        output.warn(
            f"the session of `{sandbox.name}` before this one was killed; its open connections are on record as lost"
        )
    if reached.died is not None:
        output.warn(output.safe(f"the session of `{sandbox.name}` before this one ended by itself: {reached.died}"))
    if reached.was_started:
        from sandhold.cli.rootfs import say_outdated  # noqa: PLC0415  a running sandbox is reached without templates

        say_outdated(paths, sandbox.template)
        outcomes.say_notes(str(paths.sandbox(sandbox.name)))
    return reached
