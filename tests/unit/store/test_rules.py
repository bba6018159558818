"""Local rules and posture: one change, one generation, on record first."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from sandhold.errors import SbxError
from sandhold.model.event import EventId, PolicyChanged
from sandhold.model.rule import Effect, Origin, Posture
from sandhold.store import rules
from sandhold.store.audit import Clock, Trail
from sandhold.store.database import open_database, transaction
from sandhold.store.generations import PolicyUnreadableError
from sandhold.store.records import read_backwards
from sandhold.store.rules import Editor, load_policy
from sandhold.store.verification import verify
from tests.unit.store.samples import NOON, finish, start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandhold.model.rule import Rule
    from sandhold.store.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(tmp_path / "db")) as opened:
        yield opened


def editor(recorded: list[PolicyChanged] | None = None, now: float = NOON) -> Editor:
    return Editor("ada", EventId("E1"), now, (recorded if recorded is not None else []).append)


def local(database: Database) -> list[Rule]:
    return [rule for rule in load_policy(database).rules if rule.origin is Origin.LOCAL]


def test_new_installation_is_balanced(database: Database) -> None:
    """Without any set-up the policy is generation 1, balanced, with five default groups and no local rule."""
    policy = load_policy(database)
    assert (policy.generation, policy.posture) == (1, Posture.BALANCED)
    assert {rule.origin for rule in policy.rules} == {Origin.PRESET}
    assert len({rule.name for rule in policy.rules}) == 5


def test_added_rules_come_last_in_order(database: Database) -> None:
    """A rule is stored as it was written, gets an id of its own, and stands behind the default groups."""
    change = rules.add_rules(
        database, editor(), Effect.ALLOW, ["Example.com:8443", "10.0.0.0/8:22"], sandbox="lab", expires_at=NOON + 60
    )
    assert change.generation == load_policy(database).generation == 2
    first, second = load_policy(database).rules[-2:]
    assert (first.id, second.id) == change.rules
    assert first.id != second.id
    assert first.id.startswith("local:")
    assert first.name == first.id
    assert (first.resource, str(first.pattern), first.sandbox, first.expires_at) == (
        "Example.com:8443",
        "example.com",
        "lab",
        NOON + 60,
    )
    assert (first.effect, second.effect, second.resource) == (Effect.ALLOW, Effect.ALLOW, "10.0.0.0/8:22")


def test_agent_rules_stand_between(database: Database) -> None:
    """The rules an agent brings stand behind the default groups and before the local ones."""
    rules.add_rules(database, editor(), Effect.DENY, ["example.com"])
    brought = load_policy(database).rules[0]
    found = load_policy(database, (brought,)).rules
    assert found[-2] == brought
    assert found[-1].origin is Origin.LOCAL


REFUSED = {
    "a scheme": ["https://example.com/"],
    "everything at once as a network": ["0.0.0.0/0"],
    "a metadata address": ["169.254.169.254"],
    "one good, one bad": ["example.com", "exa mple.com"],
    "nothing": [],
    "more than one change may name": ["example.com"] * (rules.RESOURCES_MAX + 1),
}


@pytest.mark.parametrize("resources", REFUSED.values(), ids=REFUSED.keys())
def test_refused_as_a_whole(database: Database, resources: list[str]) -> None:
    """A change with a resource that cannot be enforced exactly is refused, all of it, and nothing is recorded."""
    recorded: list[PolicyChanged] = []
    with pytest.raises(SbxError) as caught:
        rules.add_rules(database, editor(recorded), Effect.ALLOW, resources)
    assert caught.value.status == 2
    assert recorded == []
    assert local(database) == []
    assert load_policy(database).generation == 1


@pytest.mark.parametrize("expires_at", [NOON, 0.0, float("nan")])
def test_expired_before_it_begins(database: Database, expires_at: float) -> None:
    """A rule that would have expired already, or at no time at all, is refused."""
    with pytest.raises(SbxError):
        rules.add_rules(database, editor(), Effect.ALLOW, ["example.com"], expires_at=expires_at)
    assert local(database) == []


def test_more_rules_than_can_be_enforced(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """No change makes more rules than egress reads in time; a database that has more is unreadable, not cut short."""
    monkeypatch.setattr(rules, "RULES_MAX", 2)
    recorded: list[PolicyChanged] = []
    with pytest.raises(SbxError, match="more than 2"):
        rules.add_rules(database, editor(recorded), Effect.ALLOW, ["a.test", "b.test", "c.test"])
    assert recorded == []
    rules.add_rules(database, editor(), Effect.ALLOW, ["a.test", "b.test"])
    assert len(local(database)) == 2
    monkeypatch.setattr(rules, "RULES_MAX", 1)
    with pytest.raises(PolicyUnreadableError, match="2 local rules"):
        load_policy(database)


def test_text_that_is_no_utf8(database: Database) -> None:
    """A row whose text cannot even be decoded makes the policy unreadable, in words."""
    rules.add_rules(database, editor(), Effect.DENY, ["example.com"])
    with transaction(database):
        database.execute("UPDATE rules SET resource = CAST(x'ff' AS TEXT)")
    with pytest.raises(SbxError):
        load_policy(database)
    rules.reset(database, editor())
    assert local(database) == []


CHANGES: dict[str, Callable[[Database, Editor, str], PolicyChanged]] = {
    "allow": lambda database, by, _: rules.add_rules(database, by, Effect.ALLOW, ["other.test"]),
    "deny": lambda database, by, _: rules.add_rules(database, by, Effect.DENY, ["other.test"]),
    "rm by id": rules.remove_rule,
    "rm by resource": lambda database, by, _: rules.remove_by_resource(database, by, "example.com"),
    "init": lambda database, by, _: rules.set_posture(database, by, Posture.ALLOW_ALL),
    "reset": lambda database, by, _: rules.reset(database, by),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_unrecorded_change_does_not_happen(
    database: Database, change: Callable[[Database, Editor, str], PolicyChanged]
) -> None:
    """A change that cannot be put on record is undone entirely."""
    added = rules.add_rules(database, editor(), Effect.DENY, ["example.com"])
    before = load_policy(database)

    def fail(_: PolicyChanged) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        change(database, Editor("ada", EventId("E2"), NOON, fail), added.rules[0])
    assert load_policy(database) == before


@pytest.mark.parametrize("name", CHANGES.keys())
def test_every_change_is_one_generation_on_record(database: Database, name: str) -> None:
    """A change makes exactly the next generation, and its record says who, what and which rules."""
    added = rules.add_rules(database, editor(), Effect.DENY, ["example.com"])
    recorded: list[PolicyChanged] = []
    change = CHANGES[name](database, editor(recorded), added.rules[0])
    assert recorded == [change]
    assert change.generation == load_policy(database).generation == 3
    assert (change.actor, change.action) == ("ada", name.split(maxsplit=1)[0])
    assert change.resources


def test_record_comes_before_the_change(tmp_path: Path, database: Database) -> None:
    """While a change is being put on record, everybody else still reads the generation before it."""
    seen: list[int] = []

    def look(_: PolicyChanged) -> None:
        with closing(open_database(tmp_path / "db")) as other:
            seen.append(load_policy(other).generation)

    rules.add_rules(database, Editor("ada", EventId("E1"), NOON, look), Effect.DENY, ["example.com"])
    assert seen == [1]
    assert load_policy(database).generation == 2


def test_remove_by_id_in_either_form(database: Database) -> None:
    """An id is accepted with and without `local:`, and only its rule goes."""
    ids = rules.add_rules(database, editor(), Effect.ALLOW, ["a.test", "b.test", "c.test"]).rules
    rules.remove_rule(database, editor(), ids[0])
    rules.remove_rule(database, editor(), ids[1].removeprefix("local:").upper())
    assert [rule.id for rule in local(database)] == [ids[2]]


def test_unknown_id(database: Database) -> None:
    """An unknown id is answered with the closest one, and makes no generation."""
    known = rules.add_rules(database, editor(), Effect.ALLOW, ["a.test"]).rules[0]
    wrong = known[:-1] + ("0" if known[-1] != "0" else "1")
    with pytest.raises(SbxError) as caught:
        rules.remove_rule(database, editor(), wrong)
    assert known in str(caught.value.hint)
    assert load_policy(database).generation == 2


def test_default_groups_cannot_be_removed(database: Database) -> None:
    """Removing a default group, or one of its resources, is refused with the deny rule that has that effect."""
    preset = load_policy(database).rules[0]
    with pytest.raises(SbxError, match="default group") as by_name:
        rules.remove_rule(database, editor(), preset.name)
    with pytest.raises(SbxError, match="default group") as by_resource:
        rules.remove_by_resource(database, editor(), str(preset.pattern))
    with pytest.raises(SbxError, match="default group") as by_name_as_resource:
        rules.remove_by_resource(database, editor(), preset.name)
    for caught in (by_name, by_resource, by_name_as_resource):
        assert "sbx policy deny network" in str(caught.value.hint)
    assert load_policy(database).generation == 1


def test_remove_by_resource_however_spelt(database: Database) -> None:
    """A resource is recognised in every spelling, for each effect; other resources and scopes stay."""
    rules.add_rules(database, editor(), Effect.ALLOW, ["EXAMPLE.com", "example.com:443", "example.com:22"])
    rules.add_rules(database, editor(), Effect.DENY, ["example.com"])
    rules.add_rules(database, editor(), Effect.DENY, ["example.com"], sandbox="lab")
    change = rules.remove_by_resource(database, editor(), "example.com")
    assert change.resources == ("EXAMPLE.com", "example.com")
    assert [(rule.resource, rule.sandbox) for rule in local(database)] == [
        ("example.com:443", None),
        ("example.com:22", None),
        ("example.com", "lab"),
    ]
    with pytest.raises(SbxError, match="for every sandbox"):
        rules.remove_by_resource(database, editor(), "example.com")
    rules.remove_by_resource(database, editor(), "example.com", "lab")
    assert [rule.resource for rule in local(database)] == ["example.com:443", "example.com:22"]


def test_expired_rules_stay_until_the_next_change(database: Database) -> None:
    """An expired rule stays listed as it is and is dropped by the next change after its end."""
    rules.add_rules(database, editor(), Effect.ALLOW, ["a.test"], expires_at=NOON + 60)
    rules.add_rules(database, editor(now=NOON + 59), Effect.ALLOW, ["b.test"])
    assert [rule.resource for rule in local(database)] == ["a.test", "b.test"]
    rules.set_posture(database, editor(now=NOON + 60), Posture.DENY_ALL)
    assert [rule.resource for rule in local(database)] == ["b.test"]


def test_posture_and_reset(database: Database) -> None:
    """`init` keeps local rules; `reset` removes them and goes back to balanced."""
    ids = rules.add_rules(database, editor(), Effect.ALLOW, ["a.test"]).rules
    rules.set_posture(database, editor(), Posture.ALLOW_ALL)
    assert load_policy(database).posture is Posture.ALLOW_ALL
    assert [rule.id for rule in local(database)] == list(ids)
    assert rules.reset(database, editor()).rules == ids
    assert (load_policy(database).posture, local(database)) == (Posture.BALANCED, [])


SPOILT = {
    "a resource that no longer parses": "UPDATE rules SET resource = 'not a resource'",
    "an effect that we do not know": "UPDATE rules SET effect = 'ask'",
    "a resource with a byte of zero": "UPDATE rules SET resource = 'example.com' || char(0) || '.test'",
    "an empty resource": "UPDATE rules SET resource = ''",
    "a posture that we do not know": "UPDATE policy SET posture = 'ask-me'",
    "no posture": "DELETE FROM policy",
    "no generation": "UPDATE policy SET generation = 0",
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_one_bad_row_makes_the_policy_unreadable(database: Database, spoil: str) -> None:
    """A policy with one part that is not understood is not enforced in part: it is unreadable until `reset`."""
    rules.add_rules(database, editor(), Effect.DENY, ["example.com"])
    with transaction(database):
        database.execute(spoil)
    with pytest.raises(PolicyUnreadableError) as caught:
        load_policy(database)
    assert "sbx policy reset" in str(caught.value.hint)
    rules.reset(database, editor())
    assert load_policy(database).posture is Posture.BALANCED


def _change_and_die(folder: Path) -> None:
    def die(_: PolicyChanged) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with closing(open_database(folder / "db")) as database:
        rules.add_rules(database, Editor("ada", EventId("E1"), NOON, die), Effect.ALLOW, ["example.com"])


def test_killed_before_it_is_committed(tmp_path: Path, database: Database) -> None:
    """A command that is killed between the record and the commit has changed nothing, and holds nobody up."""
    assert finish(start(_change_and_die, tmp_path)) == [-signal.SIGKILL]
    assert (load_policy(database).generation, local(database)) == (1, [])
    assert rules.add_rules(database, editor(), Effect.ALLOW, ["example.com"]).generation == 2


def _edit(folder: Path, number: int) -> None:
    clock = Clock(now=lambda: NOON, monotonic_ns=lambda: number)
    with (
        closing(open_database(folder / "db")) as database,
        Trail.open(folder / "policy.jsonl", "_policy", "", clock) as trail,
    ):
        by = Editor("ada", EventId(f"E{number}"), NOON, lambda change: trail.append([change]))
        rules.add_rules(database, by, Effect.ALLOW, [f"keep{number}.test"])
        going = rules.add_rules(database, by, Effect.DENY, [f"go{number}.test"]).rules[0]
        rules.remove_rule(database, by, going)


def test_fifty_writers_at_once(tmp_path: Path) -> None:
    """Fifty processes that add and remove lose nothing, share no id, and the generations have no gap."""
    codes = finish(*[start(_edit, tmp_path, number) for number in range(50)])
    assert codes == [0] * 50
    with closing(open_database(tmp_path / "db")) as database:
        assert load_policy(database).generation == 1 + 3 * 50
        assert sorted(rule.resource for rule in local(database)) == sorted(f"keep{number}.test" for number in range(50))
        assert len({rule.id for rule in local(database)}) == 50
    trail = list(read_backwards(tmp_path / "policy.jsonl"))
    assert [record.generation for record in reversed(trail)] == list(range(2, 2 + 3 * 50))
    assert verify(tmp_path / "policy.jsonl").is_intact
