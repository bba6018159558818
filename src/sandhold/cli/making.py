"""New sandboxes as they are asked for on the command line: options, folders, variables, and rules of their own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from sandhold.agents.definitions import DEFAULT_AGENT, agent_names, load_agent
from sandhold.cli import branching, output, rootfs
from sandhold.cli.changes import Scope, add_rules, parsed_resources, readable_policy, say_when
from sandhold.errors import EXIT_USAGE, SbxError
from sandhold.model.rule import Effect
from sandhold.model.sandbox import PROTECTED, Status
from sandhold.session import creation, presence
from sandhold.session.furnish.variables import NO_VARIABLES, Variables, parse_variables
from sandhold.session.workspace.patterns import parse_pattern
from sandhold.store import sandboxes

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandhold.model.sandbox import Sandbox
    from sandhold.paths import Paths
    from sandhold.store.database import Database

ENV_FILE_BYTES_MAX: Final = 1024 * 1024  # the kernel takes two megabytes of arguments and environment (execve(2))

_CREATION_FLAGS: Final = (
    "branch",
    "name",
    "isolation",
    "require_kvm",
    "template",
    "cpus",
    "memory",
    "protect",
    "no_protect",
)


def creation_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options that say how a new sandbox is made."""
    options = (
        click.option("--name", metavar="NAME", help="Name of the sandbox; `AGENT-FOLDER` when not given."),
        click.option(
            "--isolation",
            type=click.Choice(["auto", "microvm", "namespaces"]),
            default=None,
            help="Kind of boundary; `auto` takes `microvm` where this host's processor runs machines.",
        ),
        click.option("--require-kvm", is_flag=True, help="Fail instead of emulating a virtual machine."),
        click.option(
            "--template", metavar="NAME", help="Root file system to start from: `debian` (the default) or `host`."
        ),
        click.option("--cpus", metavar="NUMBER", type=float, help="Processors it may use, for example `1.5`."),
        click.option(
            "--memory",
            metavar="SIZE",
            help="Memory it may use, for example `4g`; half of the host's when not given, a machine's `4g` at most.",
        ),
        click.option(
            "-e",
            "--env",
            metavar="NAME=VALUE",
            multiple=True,
            help="Set a variable inside; `NAME` alone takes your own value at each command, and only its name is kept.",
        ),
        click.option("--env-file", type=click.Path(dir_okay=False, exists=True), help="File of `NAME=VALUE` lines."),
        click.option(
            "--anchor", metavar="FILE|COMMAND", help="Keep the head of the trail at each stop: a file, or `|COMMAND`."
        ),
        click.option(
            "--protect",
            multiple=True,
            metavar="PATTERN",
            help="Make these read-only inside too; `.git/hooks` and `.git/config` of every repository are.",
        ),
        click.option("--no-protect", is_flag=True, help="Let the agent write git's hooks and configuration."),
        click.option("--allow-network", multiple=True, metavar="RESOURCES", help="Allow these in this sandbox."),
        click.option("--deny-network", multiple=True, metavar="RESOURCES", help="Deny these in this sandbox."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Wishes:
    """The resources of `--allow-network` and of `--deny-network`."""

    allowed: tuple[str, ...]
    denied: tuple[str, ...]


def found_or_made(
    context: click.Context, paths: Paths, database: Database, words: tuple[str, ...], given: dict[str, object]
) -> Sandbox:
    """Read the first word as a sandbox's name, else as an agent's."""
    first, rest = (words[0], words[1:]) if words else (DEFAULT_AGENT, ())
    known = sandboxes.find(database, first)
    if known is None and first not in agent_names(paths.agents):
        closest = sandboxes.UnknownSandboxError(first, ()).hint
        raise SbxError(f"no sandbox or agent is called `{first}`", hint=closest)
    if known is not None:
        _refuse_creation_flags(known, rest, given)
        return _with_anchor(database, _with_environment(database, known, given), given)
    wanted = read_wanted(paths, first, rest, given)
    branch = _text(given.get("branch"))
    if branch is not None:
        return branching.found_or_made(paths, database, wanted, branch)
    planned = creation.plan(wanted, paths)
    again = sandboxes.find(database, planned.name)
    if again is None:
        return make_sandbox(context, paths, database, wanted)
    if again.agent != first or again.mounts != planned.mounts:
        raise sandboxes.NameTakenError(planned.name)
    _refuse_creation_flags(again, (), {**given, "name": None})
    return _with_environment(database, again, given)


def make_sandbox(context: click.Context, paths: Paths, database: Database, wanted: creation.Wanted) -> Sandbox:
    """Make the sandbox that is wanted, with a template that is there."""
    planned = creation.plan(wanted, paths)
    if sandboxes.find(database, planned.name) is not None:
        raise sandboxes.NameTakenError(planned.name)
    agreed = rootfs.settled(context, paths, wanted, planned.template)
    final = planned if agreed is wanted else creation.plan(agreed, paths)
    rootfs.make_ready(paths, final)
    return creation.make(database, paths, final)


def read_wanted(paths: Paths, agent: str, paths_given: tuple[str, ...], given: dict[str, object]) -> creation.Wanted:
    """Read what is wanted from the options given."""
    load_agent(agent, paths.agents)
    cpus = given.get("cpus")
    return creation.Wanted(
        agent=agent,
        paths=paths_given,
        name=_text(given.get("name")),
        isolation=_text(given.get("isolation")) or "auto",
        needs_hardware=given.get("require_kvm") is True,
        template=_text(given.get("template")),
        cpus=cpus if isinstance(cpus, float) else None,
        memory=_text(given.get("memory")),
        variables=read_variables(given),
        anchor=_text(given.get("anchor")),
        protected=_protected(given),
    )


def read_variables(given: dict[str, object]) -> Variables:
    """Read the variables of `-e` and `--env-file`; those of `-e` win."""
    env_file, env = given.get("env_file"), given.get("env")
    pairs = _lines_of(Path(env_file)) if isinstance(env_file, str) else []
    pairs += list(env) if isinstance(env, tuple) else []
    return parse_variables(pairs, os.environ)


def read_resources(texts: tuple[str, ...], effect: Effect) -> tuple[str, ...]:
    """Read comma lists of resources, each of which can be a rule of that effect."""
    return tuple(each for text in texts for each in parsed_resources(text, effect))


def add_wished_rules(paths: Paths, database: Database, sandbox: Sandbox, wishes: Wishes) -> None:
    """Add the rules of `--allow-network` and `--deny-network` that are not there from an earlier time."""
    if not wishes.allowed and not wishes.denied:
        return
    known = {
        (rule.effect, rule.resource)
        for rule in readable_policy(paths, database).rules
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


def _with_environment(database: Database, sandbox: Sandbox, given: dict[str, object]) -> Sandbox:
    """Keep the variables given now, beside those given before, for every later start; some by their names alone."""
    fresh = read_variables(given)
    if fresh == NO_VARIABLES:
        return sandbox
    kept = fresh.on_top_of(sandbox)
    return sandboxes.set_environment(database, sandbox.name, kept.valued, kept.named)


def _protected(given: dict[str, object]) -> tuple[str, ...]:
    patterns = given.get("protect")
    more = tuple(map(str, patterns)) if isinstance(patterns, tuple) else ()
    for each in more:
        parse_pattern(each)
    return tuple(dict.fromkeys((*(() if given.get("no_protect") else PROTECTED), *more)))


def _with_anchor(database: Database, sandbox: Sandbox, given: dict[str, object]) -> Sandbox:
    """Keep the heads of the trail where it is said now, from this session's end on."""
    text = _text(given.get("anchor"))
    if text is None:
        return sandbox
    from sandhold.session import anchoring  # noqa: PLC0415  with trails and policies; few give an anchor

    return sandboxes.set_anchor(database, sandbox.name, anchoring.parse_anchor(text, sandbox.mounts))


def _refuse_creation_flags(sandbox: Sandbox, paths_given: tuple[str, ...], given: dict[str, object]) -> None:
    flags = [flag for flag in _CREATION_FLAGS if given.get(flag)]
    if flags or paths_given:
        what = f"`--{flags[0].replace('_', '-')}`" if flags else "a folder"
        raise SbxError(
            f"`{sandbox.name}` exists already, and {what} can only be given when a sandbox is made",
            hint=f"leave it out, or make another: `sbx run --name NAME {sandbox.agent} ...`",
            status=EXIT_USAGE,
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
