"""An attempt, and the one way in which each is made: three times, judged by what was seen and not by what it says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.installation import wait_until

if TYPE_CHECKING:
    from tests.range.field import Field

RECORD_WAIT_S: Final = 10.0  # denials that nobody waits for are written in batches


@dataclass(frozen=True)
class Attempt:
    """`code` is an expression of `probe.py`. `goal` is what the control has to show, the start of something seen.

    `answers` are the words of which one comes back inside. `record` is what a denial on record holds as text, None
    where the attempt ends before there is anything to record. `control` is the code of the control where it differs,
    with `in_open` in a sandbox that allows everything instead of on the host. `permitted` may be seen all the same,
    because it is what the policy allows. `is_wide`: its goal is not reached under a policy that allows everything but
    `evil.test` and the host either.
    """

    code: str
    goal: str
    answers: tuple[str, ...]
    record: str | None
    control: str | None = None
    in_open: bool = False
    permitted: tuple[str, ...] = ()
    is_wide: bool = True
    user: str = "agent"


def make(field: Field, attempt: Attempt) -> None:
    """Make an attempt three times: where nothing holds it, in the sandbox, and in one that allows nearly everything."""
    control = attempt.control or attempt.code
    field.seen()
    said = field.inside("open", control, attempt.user) if attempt.in_open else field.outside(control)
    seen = field.seen()
    assert any(each.startswith(attempt.goal) for each in seen), f"the control is broken: {said!r}, seen {seen}"
    said = contained(field, attempt, "shut", is_on_record=attempt.record is not None)
    assert said.startswith(attempt.answers), said
    if attempt.is_wide:
        field.inside("wide", attempt.code, attempt.user)
        assert [each for each in field.seen() if each.startswith(attempt.goal)] == []


def contained(field: Field, attempt: Attempt, sandbox: str, *, is_on_record: bool) -> str:
    """Make an attempt in a sandbox with the policy of the tests: nothing of it is seen, and it is on record if it has
    to be. Returns what the probe says."""
    before = len(field.sbx.records(sandbox))
    said = field.inside(sandbox, attempt.code, attempt.user)
    unwanted = [each for each in field.seen() if not each.startswith(attempt.permitted or ("\0",))]
    assert unwanted == [], f"{said!r}, and this was seen: {unwanted}"
    wanted = attempt.record
    if wanted is None or not is_on_record:
        return said
    if "dropped" in wanted or "packets" in wanted:
        field.count_dropped(sandbox)
    wait_until(
        lambda: any(_is_denial(record, wanted) for record in field.sbx.records(sandbox)[before:]),
        f"a denial on record that names {wanted}, after {said}: {field.sbx.records(sandbox)[before:]}",
        RECORD_WAIT_S,
    )
    return said


def _is_denial(record: dict[str, Any], wanted: str) -> bool:
    is_denial = record.get("decision") == "deny" or record["kind"] == "dropped"
    return is_denial and wanted in json.dumps(record, ensure_ascii=False)
