"""`sbx run` and `create`: from words on the command line to an agent inside."""

from __future__ import annotations

import contextlib
import os
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import click

from sandhold.agents.definitions import load_agent
from sandhold.cli import branching, output, parting, rootfs
from sandhold.cli.attaching import ATTACH_TRIES, attach, reach, start_request, variables_for
from sandhold.cli.making import (
    Wishes,
    add_wished_rules,
    creation_options,
    found_or_made,
    make_sandbox,
    read_resources,
    read_variables,
    read_wanted,
)
from sandhold.errors import EXIT_NOT_HELD, EXIT_USAGE, SbxError
from sandhold.model.rule import Effect
from sandhold.model.sandbox import Isolation, Status
from sandhold.paths import Paths
from sandhold.session import control, presence, starting
from sandhold.session.furnish.login import missing_login
from sandhold.session.terminals import terminal
from sandhold.store.database import open_database

if TYPE_CHECKING:
    from sandhold.agents.parsing import Agent
    from sandhold.model.sandbox import Sandbox
    from sandhold.session.furnish.variables import Variables
    from sandhold.session.launching import Begun

_ARGUMENTS = "sandhold.arguments"


class _Task(NamedTuple):
    """What an agent is started for: one thing that a prompt says, or whatever its user types; `arguments` are its."""

    prompt: str | None
    arguments: tuple[str, ...]
    given: Variables


class AgentCommand(click.Command):
    """A command whose words after `--` are the agent's and are not looked at."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the agent's words off before click sees the rest."""
        own = args[: args.index("--")] if "--" in args else args
        ctx.meta[_ARGUMENTS] = tuple(args[len(own) + 1 :])
        return super().parse_args(ctx, own)


@click.command(cls=AgentCommand)
@click.argument("words", nargs=-1, metavar="[NAME | AGENT] [PATH[:ro]...] [-- ARGS]")
@creation_options
@click.option("--branch", metavar="NAME", help="Work in a git worktree on the branch NAME, not in the folder itself.")
@click.option("-d", "--detach", is_flag=True, help="Keep the sandbox running in the background; prints its name.")
@click.option("--rm", "remove", is_flag=True, help="Delete the sandbox when its agent ends.")
@click.option("--prompt", metavar="TEXT", help="Let the agent do this one thing, without questions, and end.")
@click.pass_context
def run(  # noqa: PLR0913 - a command has as many arguments as options
    context: click.Context,
    /,
    *,
    words: tuple[str, ...],
    detach: bool,
    remove: bool,
    prompt: str | None,
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
    for flag, is_given in (("--rm", remove), ("--prompt", prompt is not None)):
        if detach and is_given:
            raise SbxError(
                f"`--detach` and `{flag}` contradict each other", hint="leave one of them out", status=EXIT_USAGE
            )
    paths = Paths.from_environment(os.environ)
    wishes = Wishes(read_resources(allow_network, Effect.ALLOW), read_resources(deny_network, Effect.DENY))
    with closing(open_database(paths.database)) as database:
        sandbox = found_or_made(context, paths, database, words, given)
        add_wished_rules(paths, database, sandbox, wishes)
    try:
        if detach:
            return _run_detached(paths, sandbox)
        task = _Task(prompt, context.meta[_ARGUMENTS], read_variables(given))
        status = _run_agent(paths, sandbox, task, context.find_root().obj["begun"])
        if not remove:
            parting.say_end(str(paths.sandbox(sandbox.name)), sandbox.name, os.environ)
        return status
    finally:
        parting.say_review(str(paths.data), sandbox.name, os.environ)
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
    wishes = Wishes(read_resources(allow_network, Effect.ALLOW), read_resources(deny_network, Effect.DENY))
    with closing(open_database(paths.database)) as database:
        sandbox = make_sandbox(context, paths, database, read_wanted(paths, agent, paths_given, given))
        add_wished_rules(paths, database, sandbox, wishes)
    output.say(f"created `{sandbox.name}` ({sandbox.agent}, {sandbox.isolation}, template {sandbox.template})")
    if sandbox.isolation is Isolation.MICROVM:
        from sandhold.session.isolation import why  # noqa: PLC0415  with all that makes a machine

        output.say(f"the virtual machine is {why(paths, sandbox.isolation)}")
    output.hint(f"start it with `sbx run {sandbox.name}`")
    output.show(sandbox.name)
    return 0


def _run_agent(paths: Paths, sandbox: Sandbox, task: _Task, begun: Begun | None) -> int:
    """Run the agent in front of the user, or with a prompt for that one thing, without input."""
    if begun is not None or presence.look(paths.sandbox(sandbox.name)).status is not Status.RUNNING:
        rootfs.make_ready(paths, sandbox, begun)
    agent = load_agent(sandbox.agent, paths.agents)
    argv = None if task.prompt is None else agent.headless_command(task.prompt)
    if argv == ():
        raise SbxError(f"`{agent.name}` has no way to do one thing and end (`headless` in its file)", status=EXIT_USAGE)
    environment = variables_for(sandbox, task.given)
    is_missing = _say_missing_login(paths, sandbox, agent, environment)
    at_terminal = task.prompt is None and terminal.has_terminal()
    request = start_request(argv, task.arguments, environment, "agent", folder=None, wants_terminal=at_terminal)
    status = attach(paths, sandbox, request, wants_input=task.prompt is None, begun=begun)
    if at_terminal and is_missing:
        _say_missing_login(paths, sandbox, agent, environment)  # the agent's own screen covered what was said before
    return status


def _say_missing_login(paths: Paths, sandbox: Sandbox, agent: Agent, environment: tuple[tuple[str, str], ...]) -> bool:
    """Say what an agent needs to sign in; whether there was something to say."""
    given = {*dict(sandbox.environment), *sandbox.host_variables, *dict(agent.environment), *dict(environment)}
    missing = missing_login(agent, sandbox.name, paths.sandbox(sandbox.name), given, os.environ)
    if missing is not None:
        output.hint(missing)
    return missing is not None


def _run_detached(paths: Paths, sandbox: Sandbox) -> int:
    rootfs.make_ready(paths, sandbox)
    _keep(paths, sandbox)
    output.say(f"`{sandbox.name}` is running in the background")
    output.hint(f"attach with `sbx run {sandbox.name}`, end it with `sbx stop {sandbox.name}`")
    output.show(sandbox.name)
    return 0


def _keep(paths: Paths, sandbox: Sandbox) -> None:
    """Have a session go on without anybody attached. One that was just ending when we came answers nothing: try the
    next."""
    for _ in range(ATTACH_TRIES):
        with reach(paths, sandbox).channel as channel, contextlib.suppress(control.ChannelError):
            channel.send(control.Keep())
            channel.receive_reply(starting.STOP_TIMEOUT_S)
            return
    raise SbxError(
        f"the session of `{sandbox.name}` does not answer",
        hint=f"see `sbx logs {sandbox.name}`",
        status=EXIT_NOT_HELD,
    )


def _remove(paths: Paths, sandbox: Sandbox) -> None:
    from sandhold.cli import ending  # noqa: PLC0415  with trails and policies; only `--rm` deletes
    from sandhold.session.removal import remove_sandbox  # noqa: PLC0415

    starting.stop(paths, sandbox.name, "run --rm")
    ending.say_end(paths, sandbox.name)
    with closing(open_database(paths.database)) as database:
        branching.say_kept(remove_sandbox(paths, database, sandbox.name))
