"""Templates of agents: what an agent needs, installed over the base template once and shared by its sandboxes.

It is installed inside an ordinary sandbox of ours, called `build-AGENT`, that sees no folder of the host and reaches
the registries through egress and by the user's own policy: what a package's scripts do while they are installed stays
inside, and is on record in that sandbox's trail, which remains. Then the layer of that sandbox becomes the template.

Install scripts run for the packages that the agent's file names, and for no other.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import time
from contextlib import closing
from typing import TYPE_CHECKING, Final

from sandhold.agents.definitions import DEFAULT_AGENT
from sandhold.cell import tree
from sandhold.cell.images import templates
from sandhold.cell.images.templates import DEBIAN_TEMPLATE, Description
from sandhold.cell.layout import LAYER_FOLDER, ROOT_UPPER
from sandhold.cell.spec import ROOT_USER, TemplateKind
from sandhold.errors import SbxError
from sandhold.model.sandbox import Isolation, Sandbox, Status
from sandhold.session import circumstances, control, creation, presence, starting
from sandhold.session.launching import START_TIMEOUT_S
from sandhold.session.log import LOG_NAME
from sandhold.session.removal import remove_sandbox
from sandhold.store import sandboxes
from sandhold.store.database import open_database

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from sandhold.agents.parsing import Agent, Recipe
    from sandhold.paths import Paths
    from sandhold.store.database import Database

INSTALL_S_MAX: Final = 1800.0  # half a gigabyte of packages on a slow line
OUTPUT_BYTES_MAX: Final = 16 * 1024 * 1024  # of what installing prints; a script that prints more has gone wrong
TAIL_LINES: Final = 15  # of the output, shown when installing failed
INSTALLED: Final = "-- sbx: installed --"

_PACKAGE: Final = re.compile(r":((?:@[a-z0-9._-]+/)?[a-z0-9._-]+@[0-9][0-9A-Za-z.+-]*)(?=:|$)")
_QUIET: Final = "--no-audit --no-fund --no-update-notifier --loglevel=error"


def build_agent_template(
    paths: Paths, agent: Agent, environ: Mapping[str, str], show: Callable[[str], None], *, pull: bool, replaces: bool
) -> Description:
    """Build the template of an agent over the base template, which must be there.

    With `pull`, its packages are installed in their newest versions and not in those its file pins; with `replaces`, a
    template that is there already is replaced.

    Raises:
        SbxError: when it exists (without `replaces`), is in use, or cannot be installed.
    """
    assert agent.recipe is not None, "an agent without a recipe starts from the base"
    base = _base(paths)
    name = f"build-{agent.name}"
    with templates.building(paths.templates, agent.name) as place, closing(open_database(paths.database)) as database:
        _refuse_existing(paths, database, agent.name, replaces=replaces)
        show(f"building the template `{agent.name}`, once; this takes a minute or two")
        sandbox = _open_sandbox(paths, database, name)
        try:
            installed = _install(paths, name, script_for(agent.recipe, pull=pull), environ, show)
            starting.stop(paths, name, circumstances.actor())
            show(f"template {agent.name}: keeping what was installed")
            _take_layer(paths.sandbox(name) / LAYER_FOLDER, place, sandbox.slot)
        finally:
            starting.stop(paths, name, circumstances.actor())
            remove_sandbox(paths, database, name)
        _refuse_existing(paths, database, agent.name, replaces=replaces)
        description = Description(
            name=agent.name,
            kind=TemplateKind.LAYER,
            built_at=time.time(),
            suite=base.suite,
            size=tree.size_of(place / templates.LAYER),
            packages=(*agent.recipe.apt, *installed),
            base=base.name,
            base_built_at=base.built_at,
            made_from=agent.recipe.parts,
        )
        templates.publish(place, description)
    return description


def script_for(recipe: Recipe, *, pull: bool) -> str:
    """Return the shell script that installs a recipe as root and at its end names what npm has installed."""
    lines = ["set -eu", "export DEBIAN_FRONTEND=noninteractive"]
    if recipe.apt:
        lines += ["apt-get update -qq", f"apt-get install -qq -y --no-install-recommends {shlex.join(recipe.apt)}"]
    if recipe.node is not None:
        node = f"node@{recipe.node}"
        lines += [f"npm install --global --ignore-scripts {_QUIET} {shlex.quote(node)}", "npm rebuild --global node"]
    if recipe.npm:
        wanted = [_latest(package) if pull else package for package in recipe.npm]
        lines += [f"npm install --global --ignore-scripts {_QUIET} {shlex.join(wanted)}"]
    if recipe.scripts:
        lines += [f"npm rebuild --global --foreground-scripts {shlex.join(recipe.scripts)}"]
    lines += [
        f"echo {shlex.quote(INSTALLED)}",
        "npm ls --global --depth=0 --parseable --long",
        "apt-get clean",
        'rm -rf "$HOME/.npm" "$HOME/.cache" /var/lib/apt/lists/* /var/log/apt',
    ]
    return "\n".join(lines)


def _latest(package: str) -> str:
    return f"{package[: package.rindex('@')]}@latest"


def _base(paths: Paths) -> Description:
    base = next((each for each in templates.list_templates(paths.templates) if each.name == DEBIAN_TEMPLATE), None)
    if base is None:
        raise SbxError("the base template is not there", hint=f"`sbx template build {DEBIAN_TEMPLATE}`")
    return base


def _refuse_existing(paths: Paths, database: Database, name: str, *, replaces: bool) -> None:
    if not (paths.templates / name).exists():
        return
    if not replaces:
        raise SbxError(
            f"template `{name}` exists", hint=f"`sbx template build --pull {name}` makes it anew, with newer versions"
        )
    templates.refuse_covered(paths.templates, name)
    for each in sandboxes.list_all(database):
        if each.template == name and presence.look(paths.sandbox(each.name)).status is Status.RUNNING:
            raise SbxError(f"`{each.name}` runs from `{name}`", hint=f"stop it first: `sbx stop {each.name}`")


def _open_sandbox(paths: Paths, database: Database, name: str) -> Sandbox:
    """Store the sandbox to install in; what a killed build left under its name goes first."""
    left = sandboxes.find(database, name)
    if left is not None:
        if left.mounts:
            raise SbxError(f"a sandbox of yours is called `{name}`, as this build would be", hint=f"`sbx rm {name}`")
        starting.stop(paths, name, circumstances.actor())
        remove_sandbox(paths, database, name)
    sandbox = Sandbox(
        name=name,
        agent=DEFAULT_AGENT,
        isolation=Isolation.NAMESPACES,
        template=DEBIAN_TEMPLATE,
        mounts=(),
        limits=creation.limits(),
        environment=(),
        slot=0,
        created_at=time.time(),
    )
    return creation.make(database, paths, sandbox)


def _install(
    paths: Paths, name: str, script: str, environ: Mapping[str, str], show: Callable[[str], None]
) -> tuple[str, ...]:
    """Run the script inside and return the packages it names at its end."""
    reached = _reach(paths, name, environ)
    given, nothing = os.pipe2(os.O_CLOEXEC)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.close(nothing)
    with reached.channel as channel, os.fdopen(reader, "rb", buffering=0) as output:
        try:
            request = control.Start(("/bin/sh", "-c", script), (), (), ROOT_USER, "/", wants_terminal=False)
            channel.send(request, (given, writer, writer))
        finally:
            os.close(given)
            os.close(writer)
        lines = _read_output(output.fileno(), lambda line: show(f"template {name}: {line}"))
        status = _wait(channel)
    if status != 0 or INSTALLED not in lines:
        words = "\n".join(lines[-TAIL_LINES:]) or "it printed nothing"
        raise SbxError(
            f"`{name}` could not install what the agent needs (status {status}):\n{words}",
            hint=f"`sbx policy log {name}` shows what it reached and what was refused",
        )
    at_end = lines[len(lines) - lines[::-1].index(INSTALLED) :]
    return tuple(found[1] for line in at_end if (found := _PACKAGE.search(line)))


def _reach(paths: Paths, name: str, environ: Mapping[str, str]) -> starting.Reached:
    """Start the session; when that fails, its log is told here, because it goes with the sandbox."""
    try:
        return starting.reach(paths, name, environ)
    except SbxError as error:
        log = paths.sandbox(name) / LOG_NAME
        lines = log.read_text("utf-8", "backslashreplace").splitlines() if log.is_file() else []
        message = "\n".join([error.message, *lines[-TAIL_LINES:]])
        raise SbxError(message, hint="`sbx doctor` shows what this host can do", status=error.status) from error


def _read_output(reader: int, show: Callable[[str], None]) -> list[str]:
    """Read until the last process that could write is gone; returns the lines, and stops with an error when late."""
    deadline = time.monotonic() + INSTALL_S_MAX
    said = b""
    shown = 0
    while (left_s := deadline - time.monotonic()) > 0 and len(said) < OUTPUT_BYTES_MAX:
        if not select.select([reader], [], [], left_s)[0]:
            continue
        data = os.read(reader, 65536)
        if not data:
            return said.decode("utf-8", "replace").splitlines()
        said += data
        lines = said.decode("utf-8", "replace").splitlines()
        for line in filter(str.strip, lines[shown : len(lines) - 1]):
            show(line)
        shown = max(shown, len(lines) - 1)
    raise SbxError("installing did not end in time, or said more than it could have to say")


def _wait(channel: control.Channel) -> int:
    """Return how the command ended: its words come in the order `Started`, `Ended`."""
    try:
        reply, _ = channel.receive_reply(START_TIMEOUT_S)
        while isinstance(reply, control.Started):
            reply, _ = channel.receive_reply(starting.STOP_TIMEOUT_S)
    except control.ChannelError as error:
        raise SbxError(f"installing was cut short: {error}") from error
    if isinstance(reply, control.Ended):
        return reply.status
    raise SbxError(reply.message if isinstance(reply, control.Failed) else "installing was cut short")


def _take_layer(layer: Path, place: Path, slot: int) -> None:
    """Move what the sandbox wrote over its root to where the template is made, under the ids that templates have."""
    target = place / templates.LAYER
    tree.move_tree(layer / ROOT_UPPER, target)
    try:
        tree.give_to_template(target, slot)
    except OSError as error:
        raise SbxError(f"what was installed cannot be kept: {error.strerror or error}") from error
