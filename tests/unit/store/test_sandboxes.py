"""Sandboxes as rows."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest

from sandhold.model.sandbox import Isolation, Limits, Mount, Sandbox
from sandhold.store import sandboxes
from sandhold.store.database import open_database
from tests.unit.store.samples import NOON, finish, start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandhold.store.database import Database

LAB = Sandbox(
    name="lab",
    agent="shell",
    isolation=Isolation.NAMESPACES,
    template="host",
    mounts=(
        Mount(PurePosixPath("/srv/work"), is_read_only=False),
        Mount(PurePosixPath("/srv/data"), is_read_only=True),
    ),
    limits=Limits(cpus=1.5, memory=2 << 30, pids=512),
    environment=(("TOKEN", "a=b\nc"), ("BYTES", "\udcff"), ("EMPTY", ""), ("TOKEN", "again")),
    slot=0,
    created_at=NOON + 0.25,
    host_variables=("KEY", "OTHER_KEY"),
    needs_hardware=True,
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(tmp_path / "db")) as opened:
        yield opened


ROUND_TRIPS = {
    "everything given": LAB,
    "nothing limited, no environment": replace(LAB, limits=Limits(None, None, 1), environment=(), host_variables=()),
    "a micro virtual machine": replace(LAB, isolation=Isolation.MICROVM),
    "a path with spaces and other scripts": replace(
        LAB, mounts=(Mount(PurePosixPath("/a b/\u00e9"), is_read_only=True),)
    ),
}


@pytest.mark.parametrize("sandbox", ROUND_TRIPS.values(), ids=ROUND_TRIPS.keys())
def test_comes_back_as_it_was_given(database: Database, sandbox: Sandbox) -> None:
    """A stored sandbox is equal to the one given, but for its slot."""
    added = sandboxes.add(database, sandbox)
    assert added == replace(sandbox, slot=1)
    assert sandboxes.get(database, sandbox.name) == sandboxes.find(database, sandbox.name) == added


def test_second_add_of_a_name(database: Database) -> None:
    """A name that is taken is refused, naming it, and the first sandbox stays as it was."""
    first = sandboxes.add(database, LAB)
    with pytest.raises(sandboxes.NameTakenError) as caught:
        sandboxes.add(database, replace(LAB, agent="other"))
    assert caught.value.name == "lab"
    assert caught.value.hint == "re-attach to it with `sbx run lab`"
    assert sandboxes.list_all(database) == (first,)


def test_unknown_names_are_answered_with_the_closest(database: Database) -> None:
    """An unknown name fails with the names that resemble it and the command that creates it."""
    sandboxes.add(database, replace(LAB, name="sbxlab"))
    for ask in (sandboxes.get, sandboxes.remove):
        with pytest.raises(sandboxes.UnknownSandboxError) as caught:
            ask(database, "sbxlap")
        assert caught.value.closest == ("sbxlab",)
        assert "sbx create --name sbxlap" in str(caught.value.hint)
    assert sandboxes.find(database, "sbxlap") is None


def test_slots_are_never_reused(database: Database) -> None:
    """A removed sandbox takes its slot with it, even when it was the newest."""
    slots = []
    for _ in range(3):
        slots.append(sandboxes.add(database, LAB).slot)
        sandboxes.remove(database, "lab")
    assert slots == [1, 2, 3]
    assert sandboxes.list_all(database) == ()


def test_a_thousand(database: Database) -> None:
    """A thousand sandboxes are listed in the order of their creation."""
    names = [f"s{number * 7919 % 1000}" for number in range(1000)]
    database.execute("PRAGMA synchronous = OFF")
    for name in names:
        sandboxes.add(database, replace(LAB, name=name))
    assert [each.name for each in sandboxes.list_all(database)] == names


def _add(path: Path, name: str) -> None:
    with closing(open_database(path)) as database:
        sandboxes.add(database, replace(LAB, name=name))


def _lose(path: Path) -> None:
    with closing(open_database(path)) as database:
        try:
            sandboxes.add(database, LAB)
        except sandboxes.NameTakenError:
            raise SystemExit(3) from None


def test_one_winner(tmp_path: Path) -> None:
    """Of many that create one name at once, one wins; different names all get different slots."""
    path = tmp_path / "db"
    assert sorted(code or 0 for code in finish(*[start(_lose, path) for _ in range(10)])) == [0] + [3] * 9
    assert finish(*[start(_add, path, f"s{number}") for number in range(10)]) == [0] * 10
    with closing(open_database(path)) as database:
        assert len({each.slot for each in sandboxes.list_all(database)}) == 11


def test_variables_are_replaced_whole(database: Database) -> None:
    """The new ones are all there is, of that sandbox alone; there must be one."""
    added = sandboxes.add(database, LAB)
    other = sandboxes.add(database, replace(LAB, name="other"))
    changed = sandboxes.set_environment(database, "lab", (("TOKEN", "b"),), ("KEY",))
    assert (
        changed
        == replace(added, environment=(("TOKEN", "b"),), host_variables=("KEY",))
        == sandboxes.get(database, "lab")
    )
    assert sandboxes.get(database, "other") == other
    with pytest.raises(sandboxes.UnknownSandboxError):
        sandboxes.set_environment(database, "nosuch", ())
