"""`sbx policy` as typed: what it prints, what it says, how it exits."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.installation import Installation

REFUSED = {
    "a scheme is no part of a rule": (("allow", "network", "https://example.com"), 2, "a rule has no scheme"),
    "metadata addresses are never opened": (("allow", "network", "169.254.169.254"), 2, "metadata"),
    "a duration has a unit": (("allow", "network", "example.com", "--for", "30"), 2, "is no duration"),
    "a scope is a sandbox that exists": (("deny", "network", "example.com", "--sandbox", "none"), 1, "no sandbox"),
    "an id or a resource is needed": (("rm", "network"), 2, "either `--id` or `--resource`"),
    "an unknown id is no success": (("rm", "network", "--id", "local:nothing"), 1, "no local rule"),
    "reset asks, and nobody can be asked": (("reset",), 2, "nobody can be asked"),
    "a target is no URL": (("check", "network", "https://example.com/path?q"), 2, "write `example.com:443`"),
    "a target has no path": (("check", "network", "example.com:8443/path"), 2, "write `example.com:8443`"),
    "a target has the port of its scheme": (("check", "network", "http://example.com"), 2, "write `example.com:80`"),
    "a target is a host": (("check", "network", "evil.test\\@good.test"), 2, "is no target"),
}


@pytest.mark.parametrize(("words", "status", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_with_a_reason(
    sbx: Installation, words: tuple[str, ...], status: int, message: str
) -> None:
    """Bad input changes nothing, prints no data, and says what is wrong and what to do."""
    before = json.loads(sbx.ok("policy", "ls", "--json"))
    done = sbx("policy", *words)
    assert json.loads(sbx.ok("policy", "ls", "--json")) == before
    assert done.out == ""
    assert (done.status, message in done.err) == (status, True), done.err
    assert done.err.startswith("error: ")


def test_a_rule_comes_and_goes(sbx: Installation) -> None:
    """Adding prints an id, listing shows it last, removing by that id takes it away, and each is a generation."""
    first = json.loads(sbx.ok("policy", "ls", "--json"))["generation"]
    added = sbx("policy", "deny", "network", "example.com,other.example.com:8443")
    ids = re.findall(r"local:[0-9a-f-]{36}", added.out)
    assert len(set(ids)) == 2
    assert added.err == "hint: takes effect on the next `sbx run`\n"
    listed = json.loads(sbx.ok("policy", "ls", "--json"))
    assert [rule["id"] for rule in listed["rules"][-2:]] == ids
    assert listed["generation"] == first + 1
    sbx.ok("policy", "rm", "network", "--id", ids[0].removeprefix("local:"))
    sbx.ok("policy", "rm", "network", "--resource", "OTHER.example.com:8443")
    assert json.loads(sbx.ok("policy", "ls", "--json"))["generation"] == first + 3
    assert not any(rule["id"] in ids for rule in json.loads(sbx.ok("policy", "ls", "--json"))["rules"])


def test_check_answers_as_enforcement_does(sbx: Installation) -> None:
    """`check` prints the canonical destination and the rule or reason, and exits 1 when denied."""
    sbx.ok("policy", "allow", "network", "**.example.com")
    sbx.ok("policy", "deny", "network", "secret.example.com")
    allowed = sbx("policy", "check", "network", "A.Example.com.")
    assert (allowed.status, allowed.out.split()[:2]) == (0, ["ALLOWED", "a.example.com:443"])
    denied = sbx("policy", "check", "network", "secret.example.com:22")
    assert (denied.status, denied.out.split()[:2]) == (1, ["BLOCKED", "secret.example.com:22"])
    unknown = json.loads(sbx("policy", "check", "network", "example.com", "--json").out)
    assert (unknown["decision"], unknown["reason"]) == ("deny", "no-matching-rule")


def test_every_change_is_on_record(sbx: Installation) -> None:
    """Each change of the policy is a record with who, what and which generation, in a chain that verifies."""
    sbx.ok("policy", "allow", "network", "example.com")
    sbx.ok("policy", "init", "deny-all")
    sbx.ok("policy", "reset", "--force")
    records = sbx.records("_policy")
    assert [record["action"] for record in records] == ["allow", "init", "reset"]
    assert [record["generation"] for record in records] == [2, 3, 4]
    assert "3 records, unbroken" in sbx.ok("policy", "log", "--verify")


def test_deny_all_turns_the_default_groups_off(sbx: Installation) -> None:
    """Under `deny-all` a default group allows nothing, and a local rule still does."""
    sbx.ok("policy", "init", "deny-all")
    sbx.ok("policy", "allow", "network", "example.com")
    assert sbx("policy", "check", "network", "github.com").status == 1
    assert sbx("policy", "check", "network", "example.com").status == 0
    assert "allow (off)" in sbx.ok("policy", "ls")
