"""`sbx policy`: see and change what sandboxes may reach on the network, and see what they tried."""

from __future__ import annotations

import os
import re
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from sandhold.cli import output
from sandhold.errors import EXIT_FAILED, EXIT_USAGE, SbxError
from sandhold.model.rule import Effect, Origin, Posture
from sandhold.paths import Paths
from sandhold.store import rules, sandboxes
from sandhold.store.database import open_database, read_only

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sandhold.model.event import PolicyChanged
    from sandhold.model.rule import Policy, Rule
    from sandhold.store.database import Database

DEFAULT_PORT: Final = 443
_SHOWN_WITHOUT_TERMINAL: Final = 100
_NAMES_SHOWN: Final = 5
_DURATION = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Scope:
    """What a rule is for: the resources as typed, in one sandbox or all, until when, and whether at once."""

    resources: str
    sandbox: str | None
    expires_at: float | None = None
    is_now: bool = False


class PolicyGroup(click.Group):
    """Loads `log` and all that reads trails only when it is typed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands."""
        return [*super().list_commands(ctx), "log"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command."""
        if cmd_name != "log":
            return super().get_command(ctx, cmd_name)
        from sandhold.cli.trail import log  # noqa: PLC0415 - the other commands stay quick

        return log


@click.group(cls=PolicyGroup)
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
    """List the rules, all of them or those that concern sandbox NAME: NAME TYPE DECISION RESOURCES."""
    paths = Paths.from_environment(os.environ)
    with closing(read_only(paths.database)) as database:
        if name is not None:
            sandboxes.get(database, name)
        whole = _load(database)
    shown = [rule for rule in whole.rules if name is None or rule.sandbox in (None, name)]
    if as_json:
        output.show_json(
            {
                "generation": whole.generation,
                "posture": whole.posture.value,
                "rules": [_rule_facts(rule) for rule in shown],
            }
        )
        return 0
    now = time.time()
    rows = [(group, "network", _effect(of, whole.posture, now), _resources(of)) for group, of in _groups(shown)]
    output.table(("NAME", "TYPE", "DECISION", "RESOURCES"), rows if wide else _fitted(rows))
    output.say(f"posture: {whole.posture.value} (what no rule matches is {_leftover(whole.posture)})")
    return 0


@policy.group()
def allow() -> None:
    """Add a rule that allows."""


@policy.group()
def deny() -> None:
    """Add a rule that denies; it overrides every allow."""


@policy.group("rm")
def remove() -> None:
    """Remove a local rule."""


@policy.group()
def check() -> None:
    """Say what would happen, by the very function that enforcement calls."""


def _add_command(group: click.Group, effect: Effect) -> None:
    @group.command("network")
    @click.argument("resources")
    @click.option("--sandbox", metavar="NAME", help="Only in this sandbox.")
    @click.option("--now", "is_now", is_flag=True, help="Apply to running sandboxes at once.")
    @click.option("--for", "duration", metavar="30m", help="Let it expire: a number and s, m, h or d.")
    def network(resources: str, sandbox: str | None, is_now: bool, duration: str | None) -> int:  # noqa: FBT001
        paths = Paths.from_environment(os.environ)
        expires_at = time.time() + _duration(duration) if duration is not None else None
        with closing(open_database(paths.database)) as database:
            return add_rules(paths, database, effect, Scope(resources, sandbox, expires_at, is_now))

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
        return _say_when(paths, database, change, is_now=is_now)


@policy.command()
@click.argument("posture", type=click.Choice([posture.value for posture in Posture]))
@click.option("--now", "is_now", is_flag=True, help="Apply to running sandboxes at once.")
def init(posture: str, is_now: bool) -> int:  # noqa: FBT001 - click passes flags so
    """Set the posture: what holds where no rule matches. Local rules stay.

    `balanced`: the default groups, else deny. `allow-all`: allow. `deny-all`: deny, the default groups too.
    """
    from sandhold.session.policies import editor  # noqa: PLC0415 - `policy ls` lives here and stays quick

    paths = Paths.from_environment(os.environ)
    with closing(open_database(paths.database)) as database:
        change = rules.set_posture(database, editor(paths, database, None), Posture(posture))
        output.show(f"the posture is `{posture}`: what no rule matches is {_leftover(Posture(posture))}")
        return _say_when(paths, database, change, is_now=is_now)


@policy.command()
@click.option("--now", "is_now", is_flag=True, help="Apply to running sandboxes at once.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.pass_context
def reset(context: click.Context, is_now: bool, force: bool) -> int:  # noqa: FBT001 - click passes flags so
    """Remove every local rule and go back to the posture `balanced`."""
    from sandhold.cli.sandboxes import ask  # noqa: PLC0415 - `policy ls` lives here and stays quick
    from sandhold.session.policies import editor  # noqa: PLC0415 - `policy ls` lives here and stays quick

    if not force:
        ask(context, "remove every local rule?")
    paths = Paths.from_environment(os.environ)
    with closing(open_database(paths.database)) as database:
        change = rules.reset(database, editor(paths, database, None))
        output.show(f"removed {len(change.rules)} local rules; the posture is `balanced`")
        return _say_when(paths, database, change, is_now=is_now)


@check.command("network")
@click.argument("target")
@click.option("--sandbox", metavar="NAME", help="As this sandbox would be answered.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check_network(target: str, sandbox: str | None, as_json: bool) -> int:  # noqa: FBT001 - click passes flags so
    """Say what would happen to a connection to TARGET (`host`, `host:port`, port 443 when not given) and why."""
    from sandhold.model.destination import Destination, MalformedError, Source, parse_authority  # noqa: PLC0415
    from sandhold.policy.decide import decide  # noqa: PLC0415
    from sandhold.store.policy_index import load_index  # noqa: PLC0415

    try:
        host, port = parse_authority(target, DEFAULT_PORT)
    except MalformedError as error:
        raise SbxError(
            f"`{target}` is no target: {error}", hint="write `host` or `host:port`", status=EXIT_USAGE
        ) from error
    paths = Paths.from_environment(os.environ)
    with closing(read_only(paths.database)) as database:
        if sandbox is not None:
            sandboxes.get(database, sandbox)
        index = load_index(database, sandbox)
    destination = Destination(host, port, Source.CONNECT)
    decision = decide(index, destination, time.time())
    if as_json:
        output.show_json(
            {
                "destination": str(destination),
                "decision": decision.effect.value,
                "reason": decision.reason.value,
                "rule": decision.rule.id if decision.rule is not None else None,
                "because": decision.because,
                "generation": decision.generation,
            }
        )
    else:
        words = output.paint("ALLOWED", "green") if decision.is_allowed else output.paint("BLOCKED", "red")
        resource = f" ({decision.rule.resource})" if decision.rule is not None else ""
        output.show(f"{words}   {destination}   {decision.because}{resource}")
    return 0 if decision.is_allowed else EXIT_FAILED


def add_rules(paths: Paths, database: Database, effect: Effect, scope: Scope) -> int:
    """Add rules and say what they are called and when they take effect."""
    from sandhold.policy.syntax import RuleSyntaxError, split_resources  # noqa: PLC0415 - `policy ls` stays quick
    from sandhold.session.policies import editor  # noqa: PLC0415 - `policy ls` lives here and stays quick

    if scope.sandbox is not None:
        sandboxes.get(database, scope.sandbox)
    try:
        resources = split_resources(scope.resources)
    except RuleSyntaxError as error:
        raise SbxError(str(error), hint=error.hint, status=EXIT_USAGE) from error
    change = rules.add_rules(
        database,
        editor(paths, database, scope.sandbox),
        effect,
        resources,
        sandbox=scope.sandbox,
        expires_at=scope.expires_at,
    )
    word = "allowed" if effect is Effect.ALLOW else "denied"
    where = "for every sandbox" if scope.sandbox is None else f"for `{scope.sandbox}`"
    for identifier, resource in zip(change.rules, resources, strict=True):
        output.show(f"{word} `{resource}` {where} ({identifier})")
    return _say_when(paths, database, change, is_now=scope.is_now)


def _say_when(paths: Paths, database: Database, change: PolicyChanged, *, is_now: bool) -> int:
    """Say when a change takes effect, and make it so for running sandboxes if asked to."""
    from sandhold.session.policies import apply_now, running_on_older  # noqa: PLC0415 - `policy ls` stays quick

    older = running_on_older(paths, database, change.generation, change.sandbox)
    if not older:
        output.hint("takes effect on the next `sbx run`")
        return 0
    names = ", ".join(f"`{name}`" for name in older[:_NAMES_SHOWN]) + (", ..." if len(older) > _NAMES_SHOWN else "")
    if not is_now:
        runs = "runs" if len(older) == 1 else "run"
        output.hint(
            f"takes effect on the next `sbx run`; {names} still {runs} on the older policy (apply now with `--now`)"
        )
        return 0
    status = 0
    for applied in apply_now(paths, older):
        if applied.problem is None:
            output.say(f"`{applied.sandbox}` runs on generation {applied.generation}; {applied.cut} connections cut")
        else:
            status = EXIT_FAILED
            output.warn(f"`{applied.sandbox}` did not take the change over: {applied.problem}")
            output.hint(f"`sbx stop {applied.sandbox}` takes its network away")
    return status


def _load(database: Database) -> Policy:
    try:
        return rules.load_policy(database)
    except rules.PolicyUnreadableError as error:
        raise SbxError(
            f"the policy cannot be read, so every connection is denied: {error}",
            hint="`sbx policy reset` removes every local rule and mends it",
        ) from error


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
        words += f" ({_span(left_s)} left)" if left_s > 0 else " (expired)"
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


def _duration(text: str) -> float:
    match = _DURATION.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise SbxError(f"`--for {text}` is no duration", hint="for example `30m`, `2h` or `7d`", status=EXIT_USAGE)
    return float(int(match[1]) * _SECONDS[match[2]])


def _span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"
