"""`sbx verify --drill`: parts of a sandbox are broken while a program in it sends."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from sandhold.paths import Paths
from sandhold.session.proof.drill import FAULTS, Fault, struck
from sandhold.session.proof.verdicts import Outcome

if TYPE_CHECKING:
    from tests.installation import Installation


def test_a_drill_that_breaks_nothing_sees_what_gets_out(sbx: Installation) -> None:
    """With every part whole the program's connections arrive, and are called an escape."""
    paths = Paths.from_environment(sbx.environment)
    sbx.ok("template", "ls")
    verdict = struck(Fault("none", "break nothing", lambda _: None), paths, "debian", os.environ)
    assert verdict.outcome is Outcome.ESCAPED


@pytest.mark.long
def test_nothing_gets_out_while_a_part_is_broken(sbx: Installation) -> None:
    """Whatever part is broken, nothing arrives; the user's sandboxes and policy stay as they are; it is on record."""
    said = sbx.ok("verify", "--drill", "--json")
    verdicts = {verdict["attempt"]: verdict["verdict"] for verdict in map(json.loads, said.splitlines())}
    assert verdicts == {fault.name: "contained" for fault in FAULTS}
    assert sbx.ok("ls", "-q") == ""
    assert sbx.ok("policy", "ls").count("local:") == 0
    trail = (sbx.state / "audit" / "_policy.jsonl").read_text().splitlines()
    (record,) = map(json.loads, trail)
    assert (record["kind"], record["attempts"], record["escaped"]) == ("verified", len(FAULTS), 0)
