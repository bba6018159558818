"""Changes of the policy and their records: what a crash left is taken back in words."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from sandhold.model.rule import Effect
from sandhold.paths import Paths
from sandhold.session.policies import NEVER_MADE, editor
from sandhold.store import rules
from sandhold.store.database import open_database
from sandhold.store.records import read_backwards
from sandhold.store.rules import Editor
from sandhold.store.verification import verify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandhold.model.event import PolicyChanged
    from sandhold.store.database import Database


class CrashError(Exception):
    """Stands for the kill between a record and its change."""


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """An installation of the test's own."""
    return Paths(tmp_path / "state", tmp_path / "data", tmp_path / "config")


@pytest.fixture
def database(paths: Paths) -> Iterator[Database]:
    """Its database."""
    with closing(open_database(paths.database)) as database:
        yield database


def crashing(whole: Editor) -> Editor:
    """An editor that is killed once its record is on disk."""

    def record(change: PolicyChanged) -> None:
        whole.record(change)
        raise CrashError

    return Editor(whole.actor, whole.event, whole.now, record)


def changes(paths: Paths) -> list[tuple[str, int | None, tuple[str, ...]]]:
    """Action, generation and resources of what is on the host's record, oldest first."""
    return [
        (each.action or "", each.generation, each.resources) for each in reversed([*read_backwards(paths.host_trail)])
    ]


def test_a_change_that_never_was(paths: Paths, database: Database) -> None:
    """The record of a change that a crash prevented is taken back, once, by the next change, under its own event."""
    rules.add_rules(database, editor(paths, database, None), Effect.DENY, ["a.test"])
    with pytest.raises(CrashError):
        rules.add_rules(database, crashing(editor(paths, database, None)), Effect.ALLOW, ["evil.test"])
    assert [rule.resource for rule in rules.load_policy(database).rules if rule.resource.endswith(".test")] == [
        "a.test"
    ]
    rules.add_rules(database, editor(paths, database, None), Effect.DENY, ["b.test"])
    rules.add_rules(database, editor(paths, database, None), Effect.DENY, ["c.test"])
    assert changes(paths) == [
        ("deny", 2, ("a.test",)),
        ("allow", 3, ("evil.test",)),
        (NEVER_MADE, 2, ("evil.test",)),
        ("deny", 3, ("b.test",)),
        ("deny", 4, ("c.test",)),
    ]
    records = list(reversed([*read_backwards(paths.host_trail)]))
    assert records[2].event == records[1].event
    assert verify(paths.host_trail, (), "-").is_intact


def test_two_crashes_in_a_row(paths: Paths, database: Database) -> None:
    """Each record of a change that never was is taken back."""
    for resource in ("a.test", "b.test"):
        with pytest.raises(CrashError):
            rules.add_rules(database, crashing(editor(paths, database, None)), Effect.ALLOW, [resource])
    rules.add_rules(database, editor(paths, database, None), Effect.DENY, ["c.test"])
    assert [(action, resources) for action, _, resources in changes(paths)] == [
        ("allow", ("a.test",)),
        (NEVER_MADE, ("a.test",)),
        ("allow", ("b.test",)),
        (NEVER_MADE, ("b.test",)),
        ("deny", ("c.test",)),
    ]
