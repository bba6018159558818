"""`sbx run`, `create` and `exec`: from words on the command line to a command inside."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sandhold.agents.definitions import DEFAULT_AGENT, agent_names, load_agent
from sandhold.cli import output, rootfs
from sandhold.cli.changes import Scope, add_rules, parsed_resources, readable_policy, say_when
from sandhold.errors import EXIT_NOT_HELD, EXIT_USAGE, SbxError
from sandhold.model.rule import Effect
from sandhold.model.sandbox import Status
from sandhold.paths import Paths
from sandhold.session import control, creation, inside, presence, starting, terminal
from sandhold.store import sandboxes
from sandhold.store.database import open_database

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandhold.model.sandbox import Sandbox
    from sandhold.store.database import Database

ATTACH_TRIES = 5  # each meets a session that is ending; a sixth in a row is no coincidence

ENV_FILE_BYTES_MAX = 1024 * 1024  # the kernel takes two megabytes of arguments and environment together (execve(2))

_ARGUMENTS = "sandhold.arguments"
_CREATION_FLAGS = ("name", "isolation", "template", "cpus", "memory", "env", "env_file")


def creation_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options that say how a new sandbox is made."""
    options = (
        click.option("--name", metavar="NAME", help="Name of the sandbox; `AGENT-FOLDER` when not given."),
        click.option(
            "--isolation",
            type=click.Choice(["auto", "microvm", "namespaces"]),
            default=None,
            help="Kind of boundary; this version has `namespaces` only, and `auto` picks it.",
        ),
        click.option(
            "--template", metavar="NAME", help="Root file system to start from: `debian` (the default) or `host`."
        ),
        click.option("--cpus", metavar="NUMBER", type=float, help="Processors it may use, for example `1.5`."),
        click.option(
            "--memory", metavar="SIZE", help="Memory it may use, for example `4g`; half of the host's when not given."
        ),
        click.option(
            "-e",
            "--env",
            metavar="NAME=VALUE",
            multiple=True,
            help="Set a variable inside; `NAME` alone takes the host's value.",
        ),
        click.option("--env-file", type=click.Path(dir_okay=False, exists=True), help="File of `NAME=VALUE` lines."),
        click.option("--allow-network", multiple=True, metavar="RESOURCES", help="Allow these in this sandbox."),
        click.option("--deny-network", multiple=True, metavar="RESOURCES", help="Deny these in this sandbox."),
    )
    for option in reversed(options):
        command = option(command)
    return command


class AgentCommand(click.Command):
    """A command whose words after `--` are the agent's and are not looked at."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the agent's words off before click sees the rest."""
        own = args[: args.index("--")] if "--" in args else args
        ctx.meta[_ARGUMENTS] = tuple(args[len(own) + 1 :])
        return super().parse_args(ctx, own)


@dataclass(frozen=True, slots=True)
class _Wishes:
    """The resources of `--allow-network` and of `--deny-network`."""

    allowed: tuple[str, ...]
    denied: tuple[str, ...]


@click.command(cls=AgentCommand)
@click.argument("words", nargs=-1, metavar="[NAME | AGENT] [PATH[:ro]...] [-- ARGS]")
@creation_options
@click.option("-d", "--detach", is_flag=True, help="Keep the sandbox running in the background; prints its name.")
@click.option("--rm", "remove", is_flag=True, help="Delete the sandbox when its agent ends.")
@click.pass_context
def run(
    context: click.Context,
    /,
    words: tuple[str, ...],
    detach: bool,  # noqa: FBT001
    remove: bool,  # noqa: FBT001
    allow_network: tuple[str, ...],
    deny_network: tuple[str, ...],
    **given: object,
) -> int:
    """Start a sandbox, or re-attach to it, and run its agent in front of you.

    The first word is the name of a sandbox or an agent; without it, the sandbox is one for `shell` in the current
    folder. Words after `--` go to the agent.

    \b
      sbx run shell                   a shell in the current folder
      sbx run shell ~/project ~/docs:ro
      sbx run sbxlab                  the sandbox `sbxlab` again
      sbx run shell -- -c 'make test'
    """
    if detach and remove:
        raise SbxError("`--detach` and `--rm` contradict each other", hint="leave one of them out", status=EXIT_USAGE)
    paths = Paths.from_environment(os.environ)
    wishes = _Wishes(_resources(allow_network, Effect.ALLOW), _resources(deny_network, Effect.DENY))
    with closing(open_database(paths.database)) as database:
        sandbox = _found_or_made(context, paths, database, words, given)
        _add_rules(paths, database, sandbox, wishes)
    try:
        return _run_agent(paths, sandbox, context.meta[_ARGUMENTS], detach=detach)
    finally:
        if remove:
            _remove(paths, sandbox)


@click.command()
@click.argument("agent", metavar="AGENT")
@click.argument("paths_given", nargs=-1, metavar="[PATH[:ro]...]")
@creation_options
@click.pass_context
def create(
    context: click.Context,
    /,
    agent: str,
    paths_given: tuple[str, ...],
    allow_network: tuple[str, ...],
    deny_network: tuple[str, ...],
    **given: object,
) -> int:
    """Create a sandbox without starting it.

    \b
      sbx create --name sbxlab shell .
    """
    paths = Paths.from_environment(os.environ)
    wishes = _Wishes(_resources(allow_network, Effect.ALLOW), _resources(deny_network, Effect.DENY))
    with closing(open_database(paths.database)) as database:
        sandbox = _make(context, paths, database, _wanted(agent, paths_given, given))
        _add_rules(paths, database, sandbox, wishes)
    output.say(f"created `{sandbox.name}` ({sandbox.agent}, {sandbox.isolation}, template {sandbox.template})")
    output.hint(f"start it with `sbx run {sandbox.name}`")
    output.show(sandbox.name)
    return 0


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
    help="Set a variable inside; `NAME` alone takes the host's value.",
)
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(  # noqa: PLR0913 - a command has as many arguments as options
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
    rootfs.make_sure(paths, sandbox.template)
    environment = creation.parse_environment(env)
    argv = command[1:] if command[0] == "--" else command
    if not argv:
        raise SbxError("`sbx exec` needs COMMAND...", hint="`sbx exec --help` shows how it is used", status=EXIT_USAGE)
    request = _start_request(argv, (), environment, inside.user_named(user), folder=workdir, wants_terminal=tty)
    return _attach(paths, sandbox, request, wants_input=interactive)


def _found_or_made(
    context: click.Context, paths: Paths, database: Database, words: tuple[str, ...], given: dict[str, object]
) -> Sandbox:
    """Read the first word as a sandbox's name, else as an agent's."""
    first, rest = (words[0], words[1:]) if words else (DEFAULT_AGENT, ())
    known = sandboxes.find(database, first)
    if known is None and first not in agent_names():
        closest = sandboxes.UnknownSandboxError(first, ()).hint
        raise SbxError(f"no sandbox or agent is called `{first}`", hint=closest)
    if known is not None:
        _refuse_creation_flags(known, rest, given)
        return known
    wanted = _wanted(first, rest, given)
    planned = creation.plan(wanted, paths)
    again = sandboxes.find(database, planned.name)
    if again is None:
        return _make(context, paths, database, wanted)
    if again.agent != first or again.mounts != planned.mounts:
        raise sandboxes.NameTakenError(planned.name)
    _refuse_creation_flags(again, (), {**given, "name": None})
    return again


def _refuse_creation_flags(sandbox: Sandbox, paths_given: tuple[str, ...], given: dict[str, object]) -> None:
    flags = [flag for flag in _CREATION_FLAGS if given.get(flag)]
    if flags or paths_given:
        what = f"`--{flags[0].replace('_', '-')}`" if flags else "a folder"
        raise SbxError(
            f"`{sandbox.name}` exists already, and {what} can only be given when a sandbox is made",
            hint=f"leave it out, or make another: `sbx run --name NAME {sandbox.agent} ...`",
            status=EXIT_USAGE,
        )


def _wanted(agent: str, paths_given: tuple[str, ...], given: dict[str, object]) -> creation.Wanted:
    load_agent(agent)
    env_file, env = given.get("env_file"), given.get("env")
    pairs = _lines_of(Path(env_file)) if isinstance(env_file, str) else []
    pairs += list(env) if isinstance(env, tuple) else []
    cpus = given.get("cpus")
    return creation.Wanted(
        agent=agent,
        paths=paths_given,
        name=_text(given.get("name")),
        isolation=_text(given.get("isolation")) or "auto",
        template=_text(given.get("template")),
        cpus=cpus if isinstance(cpus, float) else None,
        memory=_text(given.get("memory")),
        environment=creation.parse_environment(pairs),
    )


def _lines_of(env_file: Path) -> list[str]:
    try:
        with env_file.open("rb") as file:
            text = file.read(ENV_FILE_BYTES_MAX + 1)
        lines = text.decode("utf-8").splitlines()
    except OSError as error:
        raise SbxError(f"`{env_file}` cannot be read: {error.strerror}", status=EXIT_USAGE) from error
    except UnicodeDecodeError as error:
        raise SbxError(f"`{env_file}` is not text in UTF-8", status=EXIT_USAGE) from error
    if len(text) > ENV_FILE_BYTES_MAX:
        raise SbxError(f"`{env_file}` is larger than {ENV_FILE_BYTES_MAX} bytes", status=EXIT_USAGE)
    return [line for line in map(str.strip, lines) if line and not line.startswith("#")]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _make(context: click.Context, paths: Paths, database: Database, wanted: creation.Wanted) -> Sandbox:
    planned = creation.plan(wanted, paths)
    if sandboxes.find(database, planned.name) is not None:
        raise sandboxes.NameTakenError(planned.name)
    agreed = rootfs.settled(context, paths, wanted, planned.template)
    return creation.make(database, paths, planned if agreed is wanted else creation.plan(agreed, paths))


def _resources(texts: tuple[str, ...], effect: Effect) -> tuple[str, ...]:
    return tuple(each for text in texts for each in parsed_resources(text, effect))


def _add_rules(paths: Paths, database: Database, sandbox: Sandbox, wishes: _Wishes) -> None:
    """Add the rules of `--allow-network` and `--deny-network` that are not there from an earlier time."""
    if not wishes.allowed and not wishes.denied:
        return
    known = {
        (rule.effect, rule.resource)
        for rule in readable_policy(database).rules
        if rule.sandbox == sandbox.name and rule.expires_at is None
    }
    change = None
    for effect, wished in ((Effect.ALLOW, wishes.allowed), (Effect.DENY, wishes.denied)):
        missing = tuple(resource for resource in wished if (effect, resource) not in known)
        if missing:
            change, said = add_rules(paths, database, effect, Scope(missing, sandbox.name))
            for line in said:
                output.say(line)
    if change is not None and presence.look(paths.sandbox(sandbox.name)).status is Status.RUNNING:
        say_when(paths, database, change, is_now=False)


def _run_agent(paths: Paths, sandbox: Sandbox, arguments: tuple[str, ...], *, detach: bool) -> int:
    rootfs.make_sure(paths, sandbox.template)
    if detach:
        return _detach(paths, sandbox)
    request = _start_request(None, arguments, (), "agent", folder=None, wants_terminal=terminal.has_terminal())
    return _attach(paths, sandbox, request, wants_input=True)


def _detach(paths: Paths, sandbox: Sandbox) -> int:
    reached = _reach(paths, sandbox)
    with reached.channel as channel:
        try:
            channel.send(control.Keep())
            channel.receive_reply(starting.STOP_TIMEOUT_S)
        except control.ChannelError as error:
            raise SbxError(f"the session of `{sandbox.name}` does not answer: {error}", status=EXIT_NOT_HELD) from error
    output.say(f"`{sandbox.name}` is running in the background")
    output.hint(f"attach with `sbx run {sandbox.name}`, end it with `sbx stop {sandbox.name}`")
    output.show(sandbox.name)
    return 0


def _start_request(
    argv: tuple[str, ...] | None,
    arguments: tuple[str, ...],
    environment: tuple[tuple[str, str], ...],
    user: str,
    *,
    folder: str | None,
    wants_terminal: bool,
) -> control.Start:
    rows, columns = terminal.terminal_size()
    if wants_terminal:
        host_terminal = {name: os.environ[name] for name in ("TERM", "COLORTERM") if name in os.environ}
        environment = (*host_terminal.items(), *environment)
    return control.Start(argv, arguments, environment, user, folder, wants_terminal, rows, columns)


def _attach(paths: Paths, sandbox: Sandbox, request: control.Start, *, wants_input: bool) -> int:
    """Start a command and stay with it. A session that was just ending when we came answers nothing: try the next."""
    for _ in range(ATTACH_TRIES):
        with _reach(paths, sandbox).channel as channel:
            try:
                outcome = terminal.attach(channel, request, wants_input=wants_input)
            except control.ChannelError:
                continue
        if outcome.detail is not None:
            if request.wants_terminal:
                output.say("")  # the command inside left the cursor wherever it was
            output.fail(outcome.detail, None)
        return outcome.status
    raise SbxError(
        f"the session of `{sandbox.name}` does not answer",
        hint=f"see `sbx logs {sandbox.name}`",
        status=EXIT_NOT_HELD,
    )


def _reach(paths: Paths, sandbox: Sandbox) -> starting.Reached:
    reached = starting.reach(paths, sandbox.name, os.environ)
    if reached.lost is not None:
        output.warn(
            f"the session of `{sandbox.name}` before this one was killed; its open connections are on record as lost"
        )
    if reached.was_started and sys.stderr.isatty():
        for note in starting.notes(paths, sandbox.name):
            output.hint(note)
    return reached


def _remove(paths: Paths, sandbox: Sandbox) -> None:
    from sandhold.session.removal import remove_sandbox  # noqa: PLC0415 - only `--rm` deletes

    starting.stop(paths, sandbox.name, "run --rm")
    with closing(open_database(paths.database)) as database:
        remove_sandbox(paths, database, sandbox.name)
