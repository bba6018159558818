"""The policy as egress enforces it: whatever goes wrong, there is an index, and it denies."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sandhold.errors import SbxError
from sandhold.model.decision import Reason
from sandhold.model.event import EventId
from sandhold.model.rule import Effect, Origin
from sandhold.policy.decide import decide
from sandhold.store import rules
from sandhold.store.database import open_database, transaction
from sandhold.store.policy_index import load_index, read_index
from sandhold.store.rules import load_policy
from tests.unit.store.samples import NOON, destination

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandhold.model.rule import Rule
    from sandhold.store.database import Database

EDITOR = rules.Editor("ada", EventId("E1"), NOON, lambda _: None)


def _spoil(statement: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with closing(open_database(path)) as database, transaction(database):
            database.execute(statement)

    return spoil


def _overwrite_with(content: bytes) -> Callable[[Path], None]:
    def overwrite(path: Path) -> None:
        for file in path.parent.iterdir():
            file.write_bytes(content)

    return overwrite


UNREADABLE: dict[str, Callable[[Path], None]] = {
    "a rule that does not parse": _spoil("UPDATE rules SET resource = 'http://'"),
    "a text that is no UTF-8": _spoil("UPDATE rules SET resource = CAST(x'ff' AS TEXT)"),
    "no table of rules": _spoil("DROP TABLE rules"),
    "no posture": _spoil("DELETE FROM policy"),
    "a newer schema": _spoil("PRAGMA user_version = 99"),
    "no database": lambda path: path.unlink(),
    "an empty file": _overwrite_with(b""),
    "other bytes": _overwrite_with(b"no database" * 1000),
}


def _prepared(path: Path) -> Database:
    database = open_database(path)
    rules.add_rules(database, EDITOR, Effect.ALLOW, ["example.com"])
    rules.add_rules(database, EDITOR, Effect.ALLOW, ["lab.test"], sandbox="lab")
    return database


@pytest.mark.parametrize("spoil", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_unreadable_denies_everything(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """A policy that is gone, half-written, newer or damaged denies what was allowed before."""
    path = tmp_path / "state" / "db"
    _prepared(path).close()
    spoil(path)
    decision = decide(read_index(path, "lab"), destination(), NOON)
    assert not decision.is_allowed
    assert decision.reason is Reason.POLICY_UNREADABLE


def test_generation_is_kept_when_it_can_be_read(tmp_path: Path) -> None:
    """An unreadable rule denies with its reason, under the generation that has it."""
    with closing(_prepared(tmp_path / "db")) as database:
        _spoil("UPDATE rules SET resource = 'http://'")(tmp_path / "db")
        decision = decide(load_index(database, "lab"), destination(), NOON)
    assert (decision.reason, decision.generation) == (Reason.POLICY_UNREADABLE, 3)


def test_index_is_made_for_one_sandbox(tmp_path: Path) -> None:
    """A rule of one sandbox counts in that sandbox and in no other."""
    _prepared(tmp_path / "db").close()
    named = destination("lab.test")
    assert not decide(read_index(tmp_path / "db", "other"), named, NOON).is_allowed
    assert not decide(read_index(tmp_path / "db", None), named, NOON).is_allowed
    assert decide(read_index(tmp_path / "db", "lab"), named, NOON).is_allowed
    assert decide(read_index(tmp_path / "db", "other"), destination(), NOON).is_allowed


def test_what_agents_bring_counts(tmp_path: Path) -> None:
    """The rules brought stand beside the stored ones, read anew each time."""
    with closing(_prepared(tmp_path / "db")) as database:
        brought = replace(load_policy(database).rules[-1], origin=Origin.AGENT, sandbox="other")
    assert not decide(read_index(tmp_path / "db", "other"), destination("lab.test"), NOON).is_allowed
    assert decide(read_index(tmp_path / "db", "other", lambda _: (brought,)), destination("lab.test"), NOON).is_allowed


def test_what_agents_bring_and_nobody_can_read_denies_everything(tmp_path: Path) -> None:
    """Rules that cannot be told are no rules, and neither are the stored ones beside them."""

    def unreadable(_: Database) -> tuple[Rule, ...]:
        raise SbxError("an agent's file is gone")

    _prepared(tmp_path / "db").close()
    assert decide(read_index(tmp_path / "db", "lab"), destination(), NOON).is_allowed
    decision = decide(read_index(tmp_path / "db", "lab", unreadable), destination(), NOON)
    assert (decision.is_allowed, decision.reason) == (False, Reason.POLICY_UNREADABLE)
