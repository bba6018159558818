"""`sbx policy`: see and change what sandboxes may reach on the network, and see what they tried."""

from __future__ import annotations

import os
import time
from contextlib import closing
from typing import TYPE_CHECKING, Final

import click

from sandhold.cli import output
from sandhold.cli.asking import ask_before_deleting
from sandhold.cli.changes import Scope, add_rules, parsed_resources, readable_policy, say_when
from sandhold.cli.durations import format_duration, parse_duration
from sandhold.cli.groups import Lazy, LazyGroup
from sandhold.errors import EXIT_USAGE, SbxError
from sandhold.model.rule import Effect, Origin, Posture
from sandhold.paths import Paths
from sandhold.store import rules, sandboxes
from sandhold.store.database import open_database, read_only

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sandhold.model.rule import Rule

_SHOWN_WITHOUT_TERMINAL: Final = 100

_LAZY: Final[Mapping[str, Lazy]] = {
    "check": Lazy("sandhold.cli.check", "check", "Say what would happen, by the very function that enforcement calls"),
    "log": Lazy("sandhold.cli.trail", "log", "Show what sandboxes tried on the network, and check the audit trail"),
}


@click.group(cls=LazyGroup, lazy=_LAZY)
def policy() -> None:
    """See and change what sandboxes may reach on the network.

    Deny beats allow; what no rule matches falls to the posture. A change takes effect on the next `sbx run`, or at
    once with `--now`.
    """


@policy.command()
@click.argument("name", required=False)
@click.option("--wide", is_flag=True, help="Show every resource.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(name: str | None, wide: bool, as_json: bool) -> int:  # noqa: FBT001 - click passes flags so
    """List the rules, all of them or those that concern sandbox NAME.

    The columns are NAME, TYPE, DECISION and RESOURCES; the default groups come first, local rules last.
    """
    paths = Paths.from_environment(os.environ)
    with closing(read_only(paths.database)) as database:
        if name is not None:
            sandboxes.get(database, name)
        whole = readable_policy(paths, database)
    now = time.time()
    in_force = [rule for rule in whole.rules if rule.expires_at is None or rule.expires_at > now]
    shown = [rule for rule in in_force if name is None or rule.sandbox in (None, name)]
    if as_json:
        output.show_json(
            {
                "generation": whole.generation,
                "posture": whole.posture.value,
                "rules": [_rule_facts(rule) for rule in shown],
            }
        )
        return 0
    rows = [(group, "network", _effect(of, whole.posture, now), _resources(of)) for group, of in _groups(shown)]
    output.table(("NAME", "TYPE", "DECISION", "RESOURCES"), rows if wide else _fitted(rows))
    output.say(f"posture: {whole.posture.value} (what no rule matches is {_leftover(whole.posture)})")
    return 0


@policy.group(cls=LazyGroup)
def allow() -> None:
    """Add a rule that allows."""


@policy.group(cls=LazyGroup)
def deny() -> None:
    """Add a rule that denies; it overrides every allow."""


@policy.group("rm", cls=LazyGroup)
def remove() -> None:
    """Remove a local rule."""


def _add_command(group: click.Group, effect: Effect) -> None:
    @group.command("network")
    @click.argument("resources")
    @click.option("--sandbox", metavar="NAME", help="Only in this sandbox.")
    @click.option("--now", "is_now", is_flag=True, help="Apply to running sandboxes at once.")
    @click.option("--for", "duration", metavar="30m", help="Let it expire: a number and s, m, h or d.")
    def network(resources: str, sandbox: str | None, is_now: bool, duration: str | None) -> int:  # noqa: FBT001
        paths = Paths.from_environment(os.environ)
        expires_at = _expiry(duration)
        parsed = parsed_resources(resources, effect)
        with closing(open_database(paths.database)) as database:
            if sandbox is not None:
                sandboxes.get(database, sandbox)
            change, said = add_rules(paths, database, effect, Scope(parsed, sandbox, expires_at))
            for line in said:
                output.show(line)
            return say_when(paths, database, change, is_now=is_now)

    network.short_help = f"{effect.value.capitalize()} RESOURCES, a comma list, on the network"
    network.help = (
        f"{effect.value.capitalize()} RESOURCES, a comma list: `example.com`, `example.com:22`, `*.example.com`, "
        "`**.example.com`, `10.0.0.0/8:443`, `localhost:11434`, `**`."
    )


_add_command(allow, Effect.ALLOW)
_add_command(deny, Effect.DENY)


@remove.command("network")
@click.option("--id", "identifier", metavar="UUID", help="The rule's id, with or without `local:`.")
@click.option("--resource", metavar="R", help="Every local rule for this resource.")
@click.option("--sandbox", metavar="NAME", help="With `--resource`: the rules of this sandbox.")
@click.option("--now", "is_now", is_flag=True, help="Apply to running sandboxes at once.")
def remove_network(
    identifier: str | None,
    resource: str | None,
    sandbox: str | None,
    is_now: bool,  # noqa: FBT001
) -> int:
    """Remove local rules. A default group cannot be removed; a deny rule overrides it."""
    if (identifier is None) == (resource is None):
        raise SbxError("give either `--id` or `--resource`", hint="`sbx policy ls` shows both", status=EXIT_USAGE)
    from sandhold.session.policies import editor  # noqa: PLC0415 - `policy ls` lives here and stays quick

    paths = Paths.from_environment(os.environ)
    with closing(open_database(paths.database)) as database:
        by = editor(paths, database, sandbox)
        if identifier is not None:
            change = rules.remove_rule(database, by, identifier)
        else:
            change = rules.remove_by_resource(database, by, resource or "", sandbox)
        for removed, text in zip(change.rules, change.resources, strict=True):
            output.show(f"removed `{text}` ({removed})")
        return say_when(paths, database, change, is_now=is_now)


@policy.command()
@click.argument("posture", metavar="POSTURE", type=click.Choice([posture.value for posture in Posture]))
@click.option("--now", "is_now", is_flag=True, help="Apply to running sandboxes at once.")
def init(posture: str, is_now: bool) -> int:  # noqa: FBT001 - click passes flags so
    """Set the posture: what holds where no rule matches. Local rules stay.

    \b
      balanced    the default groups, else deny; this is how it starts
      allow-all   allow
      deny-all    deny, and the default groups are off
    """
    from sandhold.session.policies import editor  # noqa: PLC0415 - `policy ls` lives here and stays quick

    paths = Paths.from_environment(os.environ)
    with closing(open_database(paths.database)) as database:
        change = rules.set_posture(database, editor(paths, database, None), Posture(posture))
        output.show(f"the posture is `{posture}`: what no rule matches is {_leftover(Posture(posture))}")
        return say_when(paths, database, change, is_now=is_now)


@policy.command()
@click.option("--now", "is_now", is_flag=True, help="Apply to running sandboxes at once.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.pass_context
def reset(context: click.Context, is_now: bool, force: bool) -> int:  # noqa: FBT001 - click passes flags so
    """Remove every local rule and go back to the posture `balanced`."""
    from sandhold.session.policies import editor  # noqa: PLC0415 - `policy ls` lives here and stays quick

    if not force:
        ask_before_deleting(context, "remove every local rule?")
    paths = Paths.from_environment(os.environ)
    with closing(open_database(paths.database)) as database:
        change = rules.reset(database, editor(paths, database, None))
        output.show(f"removed {len(change.rules)} local rules; the posture is `balanced`")
        return say_when(paths, database, change, is_now=is_now)


def _groups(shown: Iterable[Rule]) -> list[tuple[str, list[Rule]]]:
    """Put rules of one name together, default groups first and local rules last."""
    groups: dict[str, list[Rule]] = {}
    for rule in shown:
        groups.setdefault(rule.name, []).append(rule)
    order = {Origin.PRESET: 0, Origin.AGENT: 1, Origin.LOCAL: 2}
    return sorted(groups.items(), key=lambda group: order[group[1][0].origin])


def _effect(group: Sequence[Rule], posture: Posture, now: float) -> str:
    rule = group[0]
    words = rule.effect.value
    if rule.expires_at is not None:
        left_s = rule.expires_at - now
        words += f" ({format_duration(left_s)} left)"
    if posture is Posture.DENY_ALL and rule.origin is not Origin.LOCAL and rule.effect is Effect.ALLOW:
        words += " (off)"
    return words


def _resources(group: Sequence[Rule]) -> str:
    texts = ",".join(rule.resource for rule in group)
    scope = group[0].sandbox
    return texts if scope is None else f"{texts} (only {scope})"


def _fitted(rows: Sequence[tuple[str, str, str, str]]) -> list[tuple[str, str, str, str]]:
    """Cut the resources to what a line holds, saying how many are left out."""
    used = sum(max(len(row[column]) for row in rows) + len(output.COLUMN_GAP) for column in range(3)) if rows else 0
    room = max(20, (output.width() or used + _SHOWN_WITHOUT_TERMINAL) - used)
    return [(*row[:3], _shortened(row[3], room)) for row in rows]


def _shortened(text: str, room: int) -> str:
    if len(text) <= room:
        return text
    items = text.split(",")
    kept = 1
    while kept < len(items) and len(",".join(items[: kept + 1])) + len(f",... ({len(items)} in all)") <= room:
        kept += 1
    return f"{','.join(items[:kept])},... ({len(items)} in all)" if kept < len(items) else text


def _rule_facts(rule: Rule) -> dict[str, object]:
    return {
        "id": rule.id,
        "name": rule.name,
        "type": "network",
        "decision": rule.effect.value,
        "resource": rule.resource,
        "sandbox": rule.sandbox,
        "origin": rule.origin.value,
        "expires_at": rule.expires_at,
    }


def _leftover(posture: Posture) -> str:
    return "allowed" if posture is Posture.ALLOW_ALL else "denied"


def _expiry(duration: str | None) -> float | None:
    if duration is None:
        return None
    seconds = parse_duration(duration)
    if not seconds:
        raise SbxError(f"`--for {duration}` is no duration", hint="for example `30m`, `2h` or `7d`", status=EXIT_USAGE)
    return time.time() + seconds
