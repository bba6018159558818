"""Sandboxes as rows: what was created, never whether it runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from sandhold.errors import SbxError
from sandhold.model.sandbox import PROTECTED, Isolation, Limits, Mount, Sandbox
from sandhold.model.sandbox_name import is_sandbox_name
from sandhold.store import kept_variables
from sandhold.store.database import DuplicateError, snapshot, transaction

if TYPE_CHECKING:
    from sandhold.store.database import Database

_USUAL: Final = json.dumps(PROTECTED)  # as most have it
_INSERT: Final = """
    INSERT INTO sandboxes (name, agent, isolation, template, mounts, cpus, memory, pids, environment, created_at,
        anchor, protected, needs_hardware)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_SELECT: Final = """
    SELECT slot, name, agent, isolation, template, mounts, cpus, memory, pids, environment, created_at,
        anchor, protected, needs_hardware
    FROM sandboxes
"""
_Row = tuple[int, str, str, str, str, str, float | None, int | None, int, str, float, str | None, str, int]


class NameTakenError(SbxError):
    """A sandbox of that name exists; `name` is the name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"a sandbox called `{name}` exists already", hint=f"re-attach to it with `sbx run {name}`")
        self.name = name


class UnknownSandboxError(SbxError):
    """No sandbox has that name; `closest` are the names that resemble it."""

    def __init__(self, name: str, closest: tuple[str, ...]) -> None:
        meant = "".join(f"did you mean `{each}`? " for each in closest)
        create = f"create one with `sbx create --name {name if is_sandbox_name(name) else 'NAME'} shell .`"
        super().__init__(f"no sandbox is called `{name}`", hint=meant + create)
        self.name = name
        self.closest = closest


def add(database: Database, sandbox: Sandbox) -> Sandbox:
    """Store a new sandbox and give it its slot: the value that comes back has it, whatever the one given had.

    Raises:
        NameTakenError: when the name is in use; of two at once, one wins.
    """
    row = (
        sandbox.name,
        sandbox.agent,
        sandbox.isolation.value,
        sandbox.template,
        json.dumps([(str(mount.path), mount.is_read_only) for mount in sandbox.mounts]),
        sandbox.limits.cpus,
        sandbox.limits.memory,
        sandbox.limits.pids,
        kept_variables.text_of(sandbox.environment, sandbox.host_variables),
        sandbox.created_at,
        sandbox.anchor,
        json.dumps(sandbox.protected),
        int(sandbox.needs_hardware),
    )
    try:
        with transaction(database):
            slot = database.execute(_INSERT, row).lastrowid
    except DuplicateError:
        raise NameTakenError(sandbox.name) from None
    assert slot is not None
    return replace(sandbox, slot=slot)


def find(database: Database, name: str) -> Sandbox | None:
    """Return the sandbox of that name, None when there is none."""
    with snapshot(database):
        row = database.execute(_SELECT + "WHERE name = ?", (name,)).fetchone()
    return None if row is None else _sandbox(row)


def get(database: Database, name: str) -> Sandbox:
    """Return the sandbox of that name.

    Raises:
        UnknownSandboxError: with the closest names when there is none.
    """
    found = find(database, name)
    if found is None:
        import difflib  # noqa: PLC0415  only where a name is mistyped

        names = [each.name for each in list_all(database)]
        raise UnknownSandboxError(name, tuple(difflib.get_close_matches(name, names)))
    return found


def list_all(database: Database) -> tuple[Sandbox, ...]:
    """Return every sandbox in the order of creation."""
    with snapshot(database):
        rows = database.execute(_SELECT + "ORDER BY slot").fetchall()
    return tuple(map(_sandbox, rows))


def set_environment(
    database: Database, name: str, environment: tuple[tuple[str, str], ...], host_variables: tuple[str, ...] = ()
) -> Sandbox:
    """Give a sandbox these variables from its next start on, in place of those it had; returns it as it is now.

    Raises:
        UnknownSandboxError: when there is none.
    """
    with transaction(database):
        row = (kept_variables.text_of(environment, host_variables), name)
        database.execute("UPDATE sandboxes SET environment = ? WHERE name = ?", row)
    return get(database, name)


def set_anchor(database: Database, name: str, anchor: str) -> Sandbox:
    """Keep the heads of a sandbox's trail there from now on; returns it as it is now.

    Raises:
        UnknownSandboxError: when there is none.
    """
    with transaction(database):
        database.execute("UPDATE sandboxes SET anchor = ? WHERE name = ?", (anchor, name))
    return get(database, name)


def remove(database: Database, name: str) -> None:
    """Forget the sandbox of that name; its slot is never given out again.

    Raises:
        UnknownSandboxError: when there is none.
    """
    get(database, name)
    with transaction(database):
        database.execute("DELETE FROM sandboxes WHERE name = ?", (name,))


def _sandbox(row: _Row) -> Sandbox:
    slot, name, agent, isolation, template, mounts, cpus, memory, pids = row[:9]
    environment, created_at, anchor, protected, needs_hardware = row[9:]
    valued, named = kept_variables.read(environment)
    return Sandbox(
        name=name,
        agent=agent,
        isolation=Isolation(isolation),
        template=template,
        mounts=tuple(Mount(PurePosixPath(path), is_read_only) for path, is_read_only in json.loads(mounts)),
        limits=Limits(cpus, memory, pids),
        environment=valued,
        slot=slot,
        created_at=created_at,
        host_variables=named,
        anchor=anchor,
        protected=PROTECTED if protected == _USUAL else tuple(json.loads(protected)),
        needs_hardware=bool(needs_hardware),
    )
