"""What became of an attempt to break out, judged by what was heard outside and what is on record; pure but for the
record of the result.

Rules:

1. What the canary heard escaped, unless the trail names a rule of the user's that allowed it: then it is no attempt. A
   posture opens no address of this machine but one in a documentation range (`egress/upstream.py`, rule 6).
2. A secret of the host in what an attempt says, or its belief that it got somewhere, is an escape too.
3. What came to nothing has to be on record where it left the program that made it. Without the record it escaped the
   record.
4. The probe's word that it failed is never enough by itself, and a probe that did not try proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final

from sandhold.errors import SbxError
from sandhold.model.event import Verified
from sandhold.session.circumstances import CLOCK
from sandhold.session.policies import HOST_SESSION
from sandhold.session.proof.attempts import Attempt, Trace
from sandhold.store.audit import Trail
from sandhold.store.event_ids import new_event_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sandhold.store.records import Record

DETAIL_CHARACTERS_MAX: Final = 160  # of a line on a screen

_DOCUMENTATION: Final = tuple(map(ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")))


class Outcome(StrEnum):
    """What became of an attempt."""

    CONTAINED = "contained"
    ESCAPED = "escaped"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One attempt judged. `detail` says who stopped it, what was heard, or why it proves nothing."""

    name: str
    what: str
    outcome: Outcome
    detail: str


def judge(
    attempt: Attempt,
    said: str,
    heard: Sequence[str],
    records: Sequence[Record],
    secret: str,
    problem: str | None = None,
) -> Verdict:
    """Judge an attempt by the rules above."""
    allowed = next((record for record in records if record.decision == "allow"), None)
    if allowed is not None and (not heard or _may_open(allowed)):
        because = allowed.rule_name or allowed.reason or "policy"
        return verdict_on(attempt, Outcome.SKIPPED, f"the policy allows it ({because})")
    if heard:
        return verdict_on(attempt, Outcome.ESCAPED, f"the canary heard {'; '.join(heard)}")
    if secret in said:
        return verdict_on(attempt, Outcome.ESCAPED, "it read what only the host has")
    if said.startswith("reached "):
        return verdict_on(attempt, Outcome.ESCAPED, said)
    if not said.startswith("tried "):
        return verdict_on(attempt, Outcome.SKIPPED, problem or "the probe did not try")
    if records:
        return verdict_on(attempt, Outcome.CONTAINED, _on_record(records[-1]))
    was_refused = "refused:" in said
    if attempt.trace is Trace.NONE or (attempt.trace is Trace.DROPPED and was_refused):
        return verdict_on(attempt, Outcome.CONTAINED, said.removeprefix("tried "))
    return verdict_on(attempt, Outcome.ESCAPED, f"it left no record ({said.removeprefix('tried ')})")


def _may_open(record: Record) -> bool:
    if record.rule is not None:
        return True
    try:
        address = ip_address(record.host or "")
    except ValueError:
        return False
    return any(address in network for network in _DOCUMENTATION)


def put_on_record(trail: Path, name: str, verdicts: Sequence[Verdict]) -> None:
    """Record how many attempts there were, how many escaped and how many proved nothing, in a trail of this name.

    Raises:
        SbxError: when it cannot be written.
    """

    def count(outcome: Outcome) -> int:
        return sum(verdict.outcome is outcome for verdict in verdicts)

    event = Verified(new_event_id(CLOCK.now()), len(verdicts), count(Outcome.ESCAPED), count(Outcome.SKIPPED))
    try:
        with Trail.open(trail, name, HOST_SESSION, CLOCK) as opened:
            opened.append([event])
    except OSError as error:
        raise SbxError(f"the result could not be put on record: {error.strerror or error}") from error


def verdict_on(attempt: Attempt, outcome: Outcome, detail: str) -> Verdict:
    """Return a verdict whose detail fits a line."""
    return Verdict(attempt.name, attempt.what, outcome, detail[:DETAIL_CHARACTERS_MAX])


def _on_record(record: Record) -> str:
    if record.kind == "dropped":
        return f"dropped, on record as {record.seq}"
    return f"{record.rule_name or record.reason or 'denied'}, on record as {record.seq}"
