"""`sbx ls`, `stop`, `rm`, `prune`, `inspect` and `logs`."""

from __future__ import annotations

import os
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from sandhold.cli import output
from sandhold.cli.asking import ask_before_deleting
from sandhold.errors import EXIT_FAILED, SbxError
from sandhold.model.sandbox import Status
from sandhold.paths import Paths
from sandhold.session import presence
from sandhold.session.ends import word_left
from sandhold.store import glances, sandboxes
from sandhold.store.database import open_database, read_only
from sandhold.store.generations import generation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandhold.model.sandbox import Sandbox
    from sandhold.session.presence import Presence
    from sandhold.store.database import Database

_NAMES_SHOWN: Final = 5
_COLUMNS: Final = ("SANDBOX", "AGENT", "STATUS", "ISOLATION", "POLICY", "PORTS", "WORKSPACE")
_WORKSPACE_COLUMNS_MIN: Final = 20  # less than that says nothing; the line wraps then


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="Print names only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(quiet: bool, as_json: bool) -> int:  # noqa: FBT001 - click passes flags so
    """List sandboxes.

    STATUS is asked of the host at each look. POLICY is the generation in force; `older` marks a running sandbox that
    still runs on one before the current.
    """
    paths = Paths.from_environment(os.environ)
    with closing(read_only(paths.database)) as database:
        found = glances.list_all(database)
        whole = sandboxes.list_all(database) if as_json else ()
        current = generation(database)
    if quiet:
        for each in found:
            output.show(each.name)
        return 0
    if as_json:
        output.show_json([_facts(each, presence.look(paths.sandbox(each.name)), current) for each in whole])
        return 0
    folders = str(paths.sandboxes)
    seen = [(each, presence.look(f"{folders}/{each.name}")) for each in found]
    rows = [
        (
            each.name,
            each.agent,
            look.status.value,
            each.isolation,
            _policy(look, current),
            "-",
            each.workspace,
        )
        for each, look in seen
    ]
    output.table(_COLUMNS, _fitted(rows))
    for each, look in seen:
        if look.status is Status.LOST:
            output.hint(f"`{each.name}` was killed; `sbx run {each.name}` starts it again, nothing inside is lost")
        elif look.has_word and look.status is Status.STOPPED and (word := word_left(paths.sandbox(each.name))):
            output.hint(output.safe(f"`{each.name}` ended by itself: {word}"))
    return 0


@click.command()
@click.option("--anchor", metavar="FILE|COMMAND", help="Keep the head of the trail there too: a file, or `|COMMAND`.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def stop(names: tuple[str, ...], anchor: str | None) -> int:
    """Stop sandboxes; what was installed or written inside is kept.

    The head of the audit trail is shown: who keeps it can tell later whether records were cut off or the trail was put
    back (`sbx policy log --verify --anchor FILE`).
    """
    from sandhold.cli.ending import say_end  # noqa: PLC0415 - `ls` lives in this module and stays quick
    from sandhold.cli.keeping import keep_end  # noqa: PLC0415
    from sandhold.session import anchoring, circumstances, starting  # noqa: PLC0415

    paths = Paths.from_environment(os.environ)
    with closing(read_only(paths.database)) as database:
        mounts = [mount for name in names for mount in sandboxes.get(database, name).mounts]
    target = None if anchor is None else anchoring.parse_anchor(anchor, mounts)
    is_kept = True
    for name in names:
        before = starting.stop(paths, name, circumstances.actor())
        words = {
            Status.RUNNING: f"stopped `{name}`",
            Status.STOPPED: f"`{name}` was not running",
            Status.LOST: f"`{name}` had been killed; what it left is in order now",
        }
        output.say(words[before])
        say_end(paths, name)
        is_kept = (target is None or keep_end(paths, name, target)) and is_kept
    return 0 if is_kept else EXIT_FAILED


@click.command()
@click.option("-f", "--force", is_flag=True, help="Stop running ones first.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def rm(force: bool, names: tuple[str, ...]) -> int:  # noqa: FBT001 - click passes flags so
    """Delete sandboxes and what is installed or written inside; never a workspace, never an audit trail."""
    paths = Paths.from_environment(os.environ)
    with closing(open_database(paths.database)) as database:
        for name in names:
            sandboxes.get(database, name)
        for name in names:
            _delete(paths, database, name, is_forced=force)
    return 0


@click.command()
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.pass_context
def prune(context: click.Context, force: bool) -> int:  # noqa: FBT001 - click passes flags so
    """Delete all stopped sandboxes and what is installed or written inside; never a workspace."""
    paths = Paths.from_environment(os.environ)
    with closing(open_database(paths.database)) as database:
        idle = [
            each.name
            for each in sandboxes.list_all(database)
            if presence.look(paths.sandbox(each.name)).status is not Status.RUNNING
        ]
        if not idle:
            output.say("no stopped sandboxes")
            return 0
        if not force:
            names = ", ".join(idle[:_NAMES_SHOWN]) + (", ..." if len(idle) > _NAMES_SHOWN else "")
            what = "1 stopped sandbox" if len(idle) == 1 else f"{len(idle)} stopped sandboxes"
            ask_before_deleting(context, f"delete {what} ({names})?")
        for name in idle:
            _delete(paths, database, name, is_forced=False)
    return 0


@click.command()
@click.argument("name")
@click.option("--json", "_as_json", is_flag=True, help="Print JSON, as it does without.")
def inspect(name: str, *, _as_json: bool) -> int:
    """Show all facts of one sandbox as JSON."""
    from sandhold.session import isolation, staying  # noqa: PLC0415 - `ls` lives in this module and stays quick

    paths = Paths.from_environment(os.environ)
    with closing(read_only(paths.database)) as database:
        sandbox = sandboxes.get(database, name)
        current = generation(database)
    facts = _facts(sandbox, presence.look(paths.sandbox(name)), current)
    facts |= {
        "isolation_reason": isolation.why(paths, sandbox.isolation),
        "limits": {"cpus": sandbox.limits.cpus, "memory": sandbox.limits.memory, "pids": sandbox.limits.pids},
        "environment": [variable for variable, _ in sandbox.environment] + [*sandbox.host_variables],
        "created_at": _moment(sandbox.created_at),
        "folder": str(paths.sandbox(name)),
        "trail": str(paths.trail(name)),
        "anchor": sandbox.anchor,
        "protected": list(sandbox.protected),
        "notes": staying.notes(paths.sandbox(name)) if facts["status"] == Status.RUNNING.value else [],
    }
    output.show_json(facts)
    return 0


@click.command()
@click.argument("name")
def logs(name: str) -> int:
    """Show the log of a sandbox's session: what went wrong on the host's side, not what the agent did."""
    from sandhold.session.log import kept  # noqa: PLC0415 - `ls` lives in this module and stays quick

    paths = Paths.from_environment(os.environ)
    with closing(read_only(paths.database)) as database:
        sandboxes.get(database, name)
    files = kept(paths.sandbox(name))
    if not files:
        output.say(f"`{name}` has not run yet")
    for each in files:
        with each.open(encoding="utf-8", errors="backslashreplace") as lines:
            for line in lines:
                output.show(output.safe(line.rstrip("\n")))
    return 0


def _delete(paths: Paths, database: Database, name: str, *, is_forced: bool) -> None:
    from sandhold.cli import branching  # noqa: PLC0415 - `ls` lives here and stays quick
    from sandhold.session import circumstances, removal, starting  # noqa: PLC0415

    status = presence.look(paths.sandbox(name)).status
    if status is Status.RUNNING and not is_forced:
        raise SbxError(f"`{name}` is running", hint=f"stop it first, or `sbx rm -f {name}`", status=EXIT_FAILED)
    starting.stop(paths, name, circumstances.actor())
    branching.say_kept(removal.remove_sandbox(paths, database, name))
    output.say(f"deleted `{name}`")


def _fitted(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Cut the start of workspaces that are longer than what a terminal's line has left for them."""
    width = output.width()
    if width is None:
        return list(rows)
    used = sum(
        max(len(row[column]) for row in (_COLUMNS, *rows)) + len(output.COLUMN_GAP)
        for column in range(len(_COLUMNS) - 1)
    )
    room = max(_WORKSPACE_COLUMNS_MIN, width - used)
    return [(*row[:-1], output.shortened_start(row[-1], room)) for row in rows]


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _policy(look: Presence, current: int) -> str:
    if look.status is not Status.RUNNING or look.marker is None:
        return str(current)
    in_force = look.marker.generation
    return str(in_force) if in_force >= current else f"{in_force} (older)"


def _facts(sandbox: Sandbox, look: Presence, current: int) -> dict[str, object]:
    marker = look.marker
    is_running = look.status is Status.RUNNING and marker is not None
    in_force = marker.generation if marker is not None and is_running else current
    return {
        "name": sandbox.name,
        "agent": sandbox.agent,
        "status": look.status.value,
        "isolation": sandbox.isolation.value,
        "template": sandbox.template,
        "generation": in_force,
        "is_older": in_force < current,
        "ports": [],
        "workspace": str(sandbox.workspace),
        "mounts": [str(mount) for mount in sandbox.mounts],
        "session": marker.session if marker is not None else None,
        "started_at": _moment(marker.started_at if marker is not None else None),
    }
