"""Local rules and posture: what the user changed, kept so that nothing half-written is ever enforced.

Rules (product contract, section 3; threats M07 to M10, M16):

1. Every change is one transaction and makes exactly one new generation; of two at once, both count.
2. A change is put on record before it is committed; one that cannot be recorded does not happen.
3. A resource is parsed when it is added, and a rule that cannot be enforced exactly as written is refused.
4. It is parsed again when it is read. One row that does not parse makes the whole policy unreadable, because the row
   could be a deny; an unreadable policy denies everything.
5. Default groups are not rows and cannot be removed.
6. An expired rule stays stored, matching nothing and shown no more, until the next change drops it.
7. More rules than `RULES_MAX` are not added, and not enforced in part.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandhold.errors import EXIT_USAGE, SbxError
from sandhold.model.event import PolicyChanged
from sandhold.model.rule import Effect, Generation, Policy, Posture, RuleId
from sandhold.paths import SHIPPED
from sandhold.policy.presets import parse_presets
from sandhold.policy.stored_rules import StoredRuleError, StoredRules
from sandhold.policy.syntax import RuleSyntaxError, parse_resource
from sandhold.store.database import snapshot, transaction
from sandhold.store.generations import PolicyUnreadableError, posture_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandhold.model.event import EventId
    from sandhold.model.rule import Rule
    from sandhold.policy.stored_rules import Row
    from sandhold.store.database import Database

LOCAL: Final = "local:"
RESOURCES_MAX: Final = 1000  # of one change: its record names each one and stays a line that `verify` reads at once
RULES_MAX: Final = 2_000_000  # local rules in all: twice what is measured; egress reads so many within its patience

_LOCAL_ROWS: Final = "SELECT id, effect, resource, sandbox, expires_at FROM rules ORDER BY position"


@dataclass(frozen=True, slots=True)
class Editor:
    """Who changes the policy, and how that gets on record.

    `actor` is the host's user name, `event` the id of the record. `record` is called inside the transaction, just
    before it is committed; when it raises, nothing has changed.
    """

    actor: str
    event: EventId
    now: float
    record: Callable[[PolicyChanged], None]


def load_policy(database: Database, agent_rules: tuple[Rule, ...] = ()) -> Policy:
    """Read the whole policy as it is at one moment: default groups, then the agent's rules, then local ones in order.

    Raises:
        PolicyUnreadableError: when any part of it is missing or does not parse.
        SbxError: when the database cannot be read.
    """
    others = (*preset_rules(), *agent_rules)
    with snapshot(database):
        number, posture = posture_of(database)
        count = _count(database)
        if count > RULES_MAX:
            raise PolicyUnreadableError(f"it has {count} local rules, more than the {RULES_MAX} that can be enforced")
        try:
            return Policy(number, posture, StoredRules(others, database.execute(_LOCAL_ROWS)))
        except StoredRuleError as error:
            raise PolicyUnreadableError(str(error)) from error


def preset_rules() -> tuple[Rule, ...]:
    """Return the rules of the default groups, from the file that is part of this package.

    Raises:
        PolicyUnreadableError: when the file is missing or does not parse.
    """
    try:
        return parse_presets((SHIPPED / "policy" / "presets.toml").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyUnreadableError(f"the default groups cannot be read: {error}") from error


def add_rules(
    database: Database,
    editor: Editor,
    effect: Effect,
    resources: Sequence[str],
    *,
    sandbox: str | None = None,
    expires_at: float | None = None,
) -> PolicyChanged:
    """Add one rule for each resource; `rules` of the change are their ids, in the order of the resources.

    Raises:
        SbxError: when a resource cannot be enforced exactly as written, or the database is unusable.
    """
    _check_resources(resources, effect)
    if expires_at is not None and not expires_at > editor.now:
        raise SbxError("the rule would have expired already", status=EXIT_USAGE)
    ids = tuple(RuleId(f"{LOCAL}{uuid.uuid4()}") for _ in resources)
    with transaction(database):
        if _count(database) + len(resources) > RULES_MAX:
            hint = "a wildcard or a network stands for many"
            raise SbxError(f"there would be more than {RULES_MAX} local rules", hint=hint)
        database.executemany(
            "INSERT INTO rules (id, effect, resource, sandbox, expires_at, created_at) VALUES (?,?,?,?,?,?)",
            [
                (each, effect.value, resource, sandbox, expires_at, editor.now)
                for each, resource in zip(ids, resources, strict=True)
            ],
        )
        made = _next_generation(database, editor.now)
        change = PolicyChanged(
            editor.event, effect.value, editor.actor, made, tuple(resources), ids, sandbox, expires_at
        )
        editor.record(change)
    return change


def remove_rule(database: Database, editor: Editor, rule: str) -> PolicyChanged:
    """Remove one local rule by its id, with or without `local:`.

    Raises:
        SbxError: when it is the name of a default group (with the deny rule that has the wanted effect), or no local
            rule has that id (with the closest).
    """
    _refuse_default_group(rule)
    wanted = RuleId(LOCAL + rule.lower().removeprefix(LOCAL))
    with transaction(database):
        rows = _local_rows(database)
        found = [row for row in rows if row[0] == wanted]
        if not found:
            raise _unknown(f"no local rule has the id `{rule}`", wanted, [row[0] for row in rows])
        return _remove(database, editor, found)


def remove_by_resource(database: Database, editor: Editor, resource: str, sandbox: str | None = None) -> PolicyChanged:
    """Remove every local rule for that resource, however it is spelt, in that scope (None: those for every sandbox).

    Raises:
        SbxError: when no local rule has it; when a default group has it, with the deny rule that has the wanted effect.
    """
    with transaction(database):
        rows = [row for row in _local_rows(database) if row[3] == sandbox]
        found = [row for row in rows if _same_resource(row, resource)]
        if not found:
            _refuse_default_group(resource)
            _refuse_default_resource(resource)
            scope = "for every sandbox" if sandbox is None else f"for `{sandbox}`"
            raise _unknown(f"no local rule {scope} has the resource `{resource}`", resource, [row[2] for row in rows])
        return _remove(database, editor, found)


def remove_scope(database: Database, editor: Editor, sandbox: str) -> PolicyChanged | None:
    """Remove every local rule that is for one sandbox alone; None when there is none, and nothing has changed."""
    with transaction(database):
        rows = [row for row in _local_rows(database) if row[3] == sandbox]
        return _remove(database, editor, rows) if rows else None


def set_posture(database: Database, editor: Editor, posture: Posture) -> PolicyChanged:
    """Say what holds where no rule matches; local rules stay. The record's only resource is the posture."""
    with transaction(database):
        database.execute("UPDATE policy SET posture = ?", (posture.value,))
        made = _next_generation(database, editor.now)
        change = PolicyChanged(editor.event, "init", editor.actor, made, (posture.value,), (), None)
        editor.record(change)
    return change


def reset(database: Database, editor: Editor) -> PolicyChanged:
    """Remove every local rule and go back to `balanced`; this also mends a policy that cannot be read."""
    with transaction(database):
        # As bytes: a text that is no UTF-8 is one of the things to be mended.
        rows = database.execute(
            "SELECT CAST(id AS BLOB), CAST(resource AS BLOB) FROM rules ORDER BY position"
        ).fetchall()
        ids = tuple(RuleId(identifier.decode(errors="replace")) for identifier, _ in rows)
        resources = tuple(resource.decode(errors="replace") for _, resource in rows)
        database.execute("DELETE FROM rules")
        database.execute("INSERT OR IGNORE INTO policy (only, generation, posture) VALUES (1, 0, '')")
        database.execute("UPDATE policy SET posture = ?", (Posture.BALANCED.value,))
        made = _next_generation(database, editor.now)
        change = PolicyChanged(editor.event, "reset", editor.actor, made, resources, ids, None)
        editor.record(change)
    return change


def _check_resources(resources: Sequence[str], effect: Effect) -> None:
    if not resources:
        raise SbxError("no resource is named", hint="for example `example.com` or `10.0.0.0/8:22`", status=EXIT_USAGE)
    if len(resources) > RESOURCES_MAX:
        raise SbxError(f"more than {RESOURCES_MAX} resources in one change", status=EXIT_USAGE)
    for resource in resources:
        try:
            parse_resource(resource, effect)
        except RuleSyntaxError as error:
            raise SbxError(f"`{resource}` cannot be a rule: {error}", hint=error.hint, status=EXIT_USAGE) from error


def _local_rows(database: Database) -> list[Row]:
    return database.execute(_LOCAL_ROWS).fetchall()


def _count(database: Database) -> int:
    return int(database.execute("SELECT count(*) FROM rules").fetchone()[0])


def _next_generation(database: Database, now: float) -> Generation:
    database.execute("DELETE FROM rules WHERE expires_at <= ?", (now,))
    database.execute("UPDATE policy SET generation = generation + 1")
    return posture_of(database)[0]


def _remove(database: Database, editor: Editor, rows: Sequence[Row]) -> PolicyChanged:
    database.executemany("DELETE FROM rules WHERE id = ?", [(row[0],) for row in rows])
    made = _next_generation(database, editor.now)
    scopes = {row[3] for row in rows}
    change = PolicyChanged(
        editor.event,
        "rm",
        editor.actor,
        made,
        tuple(row[2] for row in rows),
        tuple(RuleId(row[0]) for row in rows),
        scopes.pop() if len(scopes) == 1 else None,
    )
    editor.record(change)
    return change


def _same_resource(row: Row, resource: str) -> bool:
    _, effect_text, stored, _, _ = row
    if stored.strip() == resource.strip():
        return True
    try:
        effect = Effect(effect_text)
        return parse_resource(stored, effect) == parse_resource(resource, effect)
    except ValueError:
        return False


def _refuse_default_group(name: str) -> None:
    members = [rule for rule in preset_rules() if name in (rule.name, rule.id)]
    if members:
        raise SbxError(
            f"`{name}` is a default group and cannot be removed",
            hint=f"a deny rule overrides it: `sbx policy deny network {members[0].resource}`"
            f" (`sbx policy ls` shows all {len(members)} resources)",
        )


def _refuse_default_resource(resource: str) -> None:
    try:
        pattern, _ = parse_resource(resource, Effect.ALLOW)
    except RuleSyntaxError:
        return
    for rule in preset_rules():
        if rule.pattern == pattern:
            raise SbxError(
                f"`{resource}` belongs to the default group `{rule.name}` and cannot be removed",
                hint=f"a deny rule overrides it: `sbx policy deny network {resource}`",
            )


def _unknown(message: str, wanted: str, known: Sequence[str]) -> SbxError:
    import difflib  # noqa: PLC0415  only where a rule is mistyped

    closest = difflib.get_close_matches(wanted, known, n=3)
    meant = "did you mean " + " or ".join(f"`{each}`" for each in closest) if closest else "see `sbx policy ls`"
    return SbxError(message, hint=meant)
