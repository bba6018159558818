"""`sbx exec`: a command inside a sandbox. What only starting a stopped one needs is imported when it is started."""

from __future__ import annotations

import os
from contextlib import closing

import click

from sandhold.cli.attaching import attach, start_request, variables_for
from sandhold.errors import EXIT_USAGE, SbxError
from sandhold.model.sandbox import Status
from sandhold.paths import Paths
from sandhold.session import presence
from sandhold.session.furnish import inside
from sandhold.session.furnish.variables import parse_variables
from sandhold.session.terminals import terminal
from sandhold.store import sandboxes
from sandhold.store.database import open_database


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@click.option(
    "-u", "--user", metavar="USER", default="agent", show_default=True, help="User inside: `agent` or `root`."
)
@click.option("-w", "--workdir", metavar="FOLDER", help="Folder inside to start in; the workspace when not given.")
@click.option(
    "-e",
    "--env",
    metavar="NAME=VALUE",
    multiple=True,
    help="Set a variable for this command; `NAME` alone takes your own value.",
)
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def execute(  # noqa: PLR0913 - a command has as many arguments as options
    context: click.Context,
    /,
    *,
    interactive: bool,
    tty: bool,
    user: str,
    workdir: str | None,
    env: tuple[str, ...],
    name: str,
    command: tuple[str, ...],
) -> int:
    """Run a command inside a sandbox; a stopped one is started for as long as it lasts.

    \b
      sbx exec -it sbxlab bash
      sbx exec -u root sbxlab apt-get install -y jq
    """
    if tty and not terminal.has_terminal():
        raise SbxError(
            "`-t` needs a terminal, and this is none",
            hint="leave `-t` out, `-i` is enough for a pipe",
            status=EXIT_USAGE,
        )
    paths = Paths.from_environment(os.environ)
    with closing(open_database(paths.database)) as database:
        sandbox = sandboxes.get(database, name)
    begun = context.find_root().obj["begun"]
    if begun is not None or presence.look(paths.sandbox(name)).status is not Status.RUNNING:
        from sandhold.cli.rootfs import make_ready  # noqa: PLC0415  a running sandbox needs none of it

        make_ready(paths, sandbox, begun)
    environment = variables_for(sandbox, parse_variables(env, os.environ))
    argv = command[1:] if command[0] == "--" else command
    if not argv:
        raise SbxError("`sbx exec` needs COMMAND...", hint="`sbx exec --help` shows how it is used", status=EXIT_USAGE)
    request = start_request(argv, (), environment, inside.user_named(user), folder=workdir, wants_terminal=tty)
    return attach(paths, sandbox, request, wants_input=interactive, begun=begun)
