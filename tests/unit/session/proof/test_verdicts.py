"""How `sbx verify` judges an attempt: by what was heard and recorded, hardly by what was said."""

from __future__ import annotations

from typing import Final

import pytest

from sandhold.session.proof.attempts import ATTEMPTS, Attempt, Trace
from sandhold.session.proof.verdicts import Outcome, judge
from sandhold.store.records import Record

SECRET: Final = "5ecre7"

DENIED: Final = Record(kind="connection", decision="deny", reason="no-matching-rule", host="127.0.0.1")
BY_RULE: Final = Record(kind="connection", decision="allow", rule="local:1", rule_name="local:1", host="10.0.0.1")
BY_POSTURE: Final = Record(kind="connection", decision="allow", reason="posture", host="10.0.0.1")
IN_A_LAB: Final = Record(kind="connection", decision="allow", reason="posture", host="203.0.113.9")
HEARD: Final = ("a connection to 127.0.0.1 over TCP",)

CASES = {
    "a denial on record": (Trace.CONNECTION, "tried answered b''", (), (DENIED,), Outcome.CONTAINED),
    "a refusal by the kernel": (Trace.NONE, "tried refused: Operation not permitted", (), (), Outcome.CONTAINED),
    "the canary heard it": (Trace.NONE, "tried refused: nothing", HEARD, (), Outcome.ESCAPED),
    "the canary heard it and the trail denies it": (Trace.CONNECTION, "tried", HEARD, (DENIED,), Outcome.ESCAPED),
    "the canary heard what no probe admits": (Trace.CONNECTION, "", HEARD, (), Outcome.ESCAPED),
    "a secret came in": (Trace.NONE, f"tried {SECRET}", (), (), Outcome.ESCAPED),
    "the probe believes in its success": (Trace.NONE, "reached an echo", (), (), Outcome.ESCAPED),
    "no record of a connection": (Trace.CONNECTION, "tried answered b''", (), (), Outcome.ESCAPED),
    "no record of a connection that says it was refused": (
        Trace.CONNECTION,
        "tried refused: x",
        (),
        (),
        Outcome.ESCAPED,
    ),
    "no record of a question": (Trace.LOOKUP, "tried answered with code 0", (), (), Outcome.ESCAPED),
    "no record of a datagram": (Trace.DROPPED, "tried sent", (), (), Outcome.ESCAPED),
    "a datagram that was never sent": (Trace.DROPPED, "tried refused: no route", (), (), Outcome.CONTAINED),
    "a probe that did not start": (Trace.NONE, "", (), (), Outcome.SKIPPED),
    "a probe that says something else": (Trace.NONE, "contained, believe me", (), (), Outcome.SKIPPED),
    "a rule of the user's allows it": (Trace.CONNECTION, "tried", HEARD, (BY_RULE,), Outcome.SKIPPED),
    "the posture allows what nobody answered": (Trace.CONNECTION, "tried", (), (BY_POSTURE,), Outcome.SKIPPED),
    "the posture opened an address of this machine": (Trace.CONNECTION, "tried", HEARD, (BY_POSTURE,), Outcome.ESCAPED),
    "the posture opened a lab's address": (Trace.CONNECTION, "tried", HEARD, (IN_A_LAB,), Outcome.SKIPPED),
}


@pytest.mark.parametrize(("trace", "said", "heard", "records", "outcome"), CASES.values(), ids=CASES)
def test_an_attempt_is_judged_by_what_was_heard(
    trace: Trace, said: str, heard: tuple[str, ...], records: tuple[Record, ...], outcome: Outcome
) -> None:
    """What the canary heard escaped, whatever was said; what came to nothing has to be on record."""
    attempt = Attempt("any", "try", "tcp", (), trace)
    assert judge(attempt, said, heard, records, SECRET).outcome is outcome


def test_each_attempt_has_its_name() -> None:
    """No two attempts share a name, and no two that leave a question on record ask for the same name."""
    names = [attempt.name for attempt in ATTEMPTS]
    assert len(set(names)) == len(names)
    asked = [attempt.arguments[-1] for attempt in ATTEMPTS if attempt.trace is Trace.LOOKUP]
    assert len(set(asked)) == len(asked)
