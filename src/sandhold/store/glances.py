"""Sandboxes at a glance: what a command has to know of one before it asks its session for something, and what a list
shows of a thousand; without the objects that whoever starts or changes one needs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from sandhold.store import kept_variables
from sandhold.store.database import DatabaseError, snapshot

if TYPE_CHECKING:
    from sandhold.store.database import Database


class Glance(NamedTuple):
    """A sandbox at a glance. `mounts` has each folder and whether it is read-only; `variables` names those that are
    kept with a value, `host_variables` those that come from whoever starts a command."""

    agent: str
    isolation: str
    template: str
    mounts: tuple[tuple[str, bool], ...]
    variables: tuple[str, ...]
    host_variables: tuple[str, ...]


class Line(NamedTuple):
    """A sandbox as a list shows it; `workspace` as `Sandbox.workspace` has it."""

    name: str
    agent: str
    isolation: str
    workspace: str


def list_all(database: Database) -> list[Line]:
    """Return a line for every sandbox, in the order of creation."""
    with snapshot(database):
        rows = database.execute("SELECT name, agent, isolation, mounts FROM sandboxes ORDER BY slot").fetchall()
    return [Line(name, agent, isolation, _workspace(mounts)) for name, agent, isolation, mounts in rows]


def look(database: Database, sandbox: str) -> Glance | None:
    """Return what is stored of a sandbox; None when there is none, or it cannot be read."""
    question = "SELECT agent, isolation, template, mounts, environment FROM sandboxes WHERE name = ?"
    try:
        row = database.execute(question, (sandbox,)).fetchone()
    except DatabaseError:
        return None
    if row is None:
        return None
    agent, isolation, template, mounts, environment = row
    valued, named = kept_variables.read(environment)
    folders = tuple((path, is_read_only) for path, is_read_only in json.loads(mounts))
    return Glance(agent, isolation, template, folders, tuple(name for name, _ in valued), named)


def _workspace(mounts: str) -> str:
    folders = json.loads(mounts)
    return str(folders[0][0]) if folders else "/"
