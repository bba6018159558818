"""Changes to the policy as a person sees them: what changed, under which id, and when it takes effect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandhold.cli import output
from sandhold.errors import EXIT_FAILED, EXIT_USAGE, SbxError
from sandhold.model.rule import Effect
from sandhold.session.furnish.agent_rules import brought_rules
from sandhold.store import rules
from sandhold.store.generations import PolicyUnreadableError

if TYPE_CHECKING:
    from sandhold.model.event import PolicyChanged
    from sandhold.model.rule import Policy
    from sandhold.paths import Paths
    from sandhold.store.database import Database

_NAMES_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Scope:
    """What rules are for: the resources, in one sandbox or (None) all, until when (seconds since the epoch)."""

    resources: tuple[str, ...]
    sandbox: str | None
    expires_at: float | None = None


def readable_policy(paths: Paths, database: Database) -> Policy:
    """Return the whole policy.

    Raises:
        SbxError: when it cannot be read, which denies everything.
    """
    try:
        return rules.load_policy(database, brought_rules(paths, None)(database))
    except PolicyUnreadableError as error:
        raise SbxError(
            f"the policy cannot be read, so every connection is denied: {error}",
            hint="`sbx policy reset` removes every local rule and mends it",
        ) from error


def parsed_resources(text: str, effect: Effect) -> tuple[str, ...]:
    """Split a comma list of resources, each of which can be a rule of that effect.

    Raises:
        SbxError: when one of them cannot.
    """
    from sandhold.policy.syntax import (  # noqa: PLC0415 - `policy ls` imports this module and stays quick
        RuleSyntaxError,
        parse_resource,
        split_resources,
    )

    about = ""
    try:
        resources = split_resources(text)
        for each in resources:
            about = f"`{each}` cannot be a rule: "
            parse_resource(each, effect)
    except RuleSyntaxError as error:
        raise SbxError(f"{about}{error}", hint=error.hint, status=EXIT_USAGE) from error
    return resources


def add_rules(paths: Paths, database: Database, effect: Effect, scope: Scope) -> tuple[PolicyChanged, tuple[str, ...]]:
    """Add rules; return the change, and what was added in a line each."""
    from sandhold.session.policies import editor  # noqa: PLC0415 - `policy ls` imports this module and stays quick

    by = editor(paths, database, scope.sandbox)
    resources = scope.resources
    change = rules.add_rules(database, by, effect, resources, sandbox=scope.sandbox, expires_at=scope.expires_at)
    word = "allowed" if effect is Effect.ALLOW else "denied"
    where = "for every sandbox" if scope.sandbox is None else f"for `{scope.sandbox}`"
    said = (f"{word} `{each}` {where} ({identifier})" for identifier, each in zip(change.rules, resources, strict=True))
    return change, tuple(said)


def say_when(paths: Paths, database: Database, change: PolicyChanged, *, is_now: bool) -> int:
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
