"""`sbx verify` in live sandboxes: it finds what is closed closed, what is open open, and says so on record."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.installation import Installation


@pytest.fixture(scope="module")
def lab(module_sbx: Installation, module_project: Path) -> Installation:
    """Make the sandbox that is verified."""
    module_sbx.ok("create", "--name", "lab", "shell", ".", folder=module_project)
    return module_sbx


def test_every_attempt_is_contained(lab: Installation) -> None:
    """Under the default policy nothing escapes, nothing is skipped but for want of an address, and it is on record."""
    done = lab("verify", "--json", "lab")
    verdicts = [json.loads(line) for line in done.out.splitlines()]
    assert [verdict for verdict in verdicts if verdict["verdict"] == "escaped"] == []
    skipped = [verdict["detail"] for verdict in verdicts if verdict["verdict"] == "skipped"]
    assert [detail for detail in skipped if "this host" not in detail] == []
    assert done.status == 0, done.err
    assert len(verdicts) >= 40
    (record,) = [record for record in lab.records("lab") if record["kind"] == "verified"]
    assert (record["attempts"], record["escaped"], record["skipped"]) == (len(verdicts), 0, len(skipped))


@pytest.mark.long
def test_what_a_rule_allows_is_no_escape(lab: Installation) -> None:
    """An attempt that a rule of the user's opens is skipped with that rule, and what no rule opens stays contained."""
    lab.ok("policy", "allow", "network", "localhost:*", "--sandbox", "lab")
    done = lab("verify", "--json", "lab")
    verdicts = {verdict["attempt"]: verdict for verdict in map(json.loads, done.out.splitlines())}
    assert [each for each in verdicts.values() if each["verdict"] == "escaped"] == []
    assert "the policy allows it (local:" in verdicts["tcp-host-alias"]["detail"]
    assert verdicts["connect-loopback"]["verdict"] == "skipped"
    assert verdicts["metadata"]["verdict"] == "contained"
    assert verdicts["udp-host-alias"]["verdict"] == "contained"


@pytest.mark.long
def test_a_probe_that_is_replaced_inside_proves_nothing(lab: Installation) -> None:
    """Root inside can put another `python3` there, which only makes attempts prove nothing, and the status says so."""
    lab.ok("create", "--name", "forged", "shell", ".", folder=lab.home / "project")
    fake = "#!/bin/sh\necho tried refused: all is well\n"
    place = "cat >/usr/local/bin/python3 && chmod +x /usr/local/bin/python3"
    lab.ok("exec", "-i", "-u", "root", "forged", "bash", "-c", place, given=fake)
    done = lab("verify", "--json", "forged")
    verdicts = {verdict["attempt"]: verdict["verdict"] for verdict in map(json.loads, done.out.splitlines())}
    assert verdicts["tcp-host-alias"] == "escaped"
    assert verdicts["dns-elsewhere"] == "escaped"
    assert done.status == 1


def test_without_python_inside_nothing_is_proved(lab: Installation) -> None:
    """Where there is no `python3` inside, each attempt is skipped with that reason and the status is 1."""
    lab.ok("create", "--name", "bare", "shell", ".", folder=lab.home / "project")
    lab.ok("exec", "-u", "root", "bare", "bash", "-c", "rm -f /usr/bin/python3 /usr/bin/python3.*")
    done = lab("verify", "--json", "bare")
    verdicts = [json.loads(line) for line in done.out.splitlines()]
    assert {verdict["verdict"] for verdict in verdicts} == {"skipped"}, done
    assert any("no `python3` inside" in verdict["detail"] for verdict in verdicts)
    assert done.status == 1
