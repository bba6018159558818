"""`sbx policy log` as typed, on what a sandbox really tried."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.installation import Installation

ONE, TWO = "one.example.com", "two.example.com"


@pytest.fixture(scope="module")
def tried(module_sbx: Installation, module_project: Path) -> Installation:
    """Let a sandbox try two hosts that no rule allows, one of them over TLS."""
    module_sbx.ok("create", "--template", "host", "--name", "lab", "shell", ".", folder=module_project)
    script = (
        f"curl -s http://{ONE}/secret?token=hidden; curl -s https://{TWO}/; curl -s -H 'Host: a\x1b[31mb' http://{ONE}/"
    )
    module_sbx("exec", "lab", "bash", "-c", script)
    return module_sbx


def test_three_columns(tried: Installation) -> None:
    """The default is decision, host and status, a line for each attempt, in their order."""
    assert tried.log("lab")[:2] == [("BLOCKED", ONE, "-"), ("BLOCKED", TWO, "-")]


FILTERS = {
    "by decision": (("--decision", "allowed"), []),
    "by host": (("--host", TWO), [("BLOCKED", TWO, "-")]),
    "by a pattern of hosts": (("--host", "tw?.*.com"), [("BLOCKED", TWO, "-")]),
    "by host in another spelling": (("--host", TWO.upper()), [("BLOCKED", TWO, "-")]),
    "since a time that has not come": (("--since", "2999-01-01"), []),
    "until a time long gone": (("--until", "2001-01-01"), []),
}


@pytest.mark.parametrize(("flags", "rows"), FILTERS.values(), ids=FILTERS)
def test_filters(tried: Installation, flags: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A filter shows what it names and nothing else."""
    assert tried.log("lab", *flags) == rows


def test_an_event_is_found(tried: Installation) -> None:
    """The event that a refusal named finds its record, in rows and as it stands, and its requests by the connection."""
    request = next(record for record in tried.records("lab") if record.get("path") == "/secret")
    for event in (request["event"], request["event"].lower(), request["connection"]):
        assert tried.log("lab", "--event", event) == [("BLOCKED", ONE, "-")]
    printed = tried.ok("policy", "log", "--json", "--event", request["event"]).splitlines()
    assert {json.loads(line)["event"] for line in printed} == {request["event"]}
    missing = tried("policy", "log", "lab", "--event", "01ARZ3NDEKTSV4RRFFQ69G5FAV")
    assert (missing.status, missing.out, "no record has the event" in missing.err) == (1, "", True)


def test_patterns_of_hosts_hold_for_records_too(tried: Installation) -> None:
    """`--json` takes the same patterns as the rows do."""
    printed = tried.ok("policy", "log", "lab", "--json", "--host", "tw?.*.com").splitlines()
    assert {json.loads(line)["host"] for line in printed} == {TWO}


def test_the_limit_is_the_newest(tried: Installation) -> None:
    """`--limit` keeps the newest."""
    assert tried.log("lab", "--limit", "1") == tried.log("lab")[-1:]


def test_wide_has_the_rest(tried: Installation) -> None:
    """`--wide` names time, port, method, path and the reason, and never a query string."""
    wide = tried.ok("policy", "log", "lab", "--wide")
    assert "hidden" not in wide
    line = next(line for line in wide.splitlines() if "/secret" in line)
    assert re.match(r"\d{4}-\d\d-\d\dT\S+Z\s+BLOCKED\s+one\.example\.com\s+80\s+-\s+GET\s+/secret\s", line)
    assert line.endswith("no-matching-rule")


def test_json_is_the_records_themselves(tried: Installation) -> None:
    """`--json` prints every record as it stands in the trail, oldest first."""
    printed = [json.loads(line) for line in tried.ok("policy", "log", "lab", "--json").splitlines()]
    assert printed == tried.records("lab")
    assert [record["seq"] for record in printed] == list(range(1, len(printed) + 1))


def test_rows_for_other_programs(tried: Installation) -> None:
    """`--format csv` is a table for a spreadsheet, `--format ocsf` an event a line, `--format json` the records."""
    rows = list(csv.DictReader(io.StringIO(tried.ok("policy", "log", "lab", "--format", "csv"))))
    request = next(row for row in rows if row["path"] == "/secret")
    assert (request["host"], request["port"], request["decision"], request["method"]) == (ONE, "80", "deny", "GET")
    events = [json.loads(line) for line in tried.ok("policy", "log", "lab", "--format", "ocsf").splitlines()]
    assert {event["class_uid"] for event in events} == {4001, 4002, 4003, 6002}
    assert tried.ok("policy", "log", "lab", "--format", "json") == tried.ok("policy", "log", "lab", "--json")


def test_nothing_drives_the_terminal(tried: Installation) -> None:
    """What the sandbox put into a name cannot colour or move anything on the reader's screen."""
    for flags in ((), ("--wide",), ("--json",), ("--format", "csv"), ("--format", "ocsf")):
        assert "\x1b" not in tried.ok("policy", "log", "lab", *flags)


def test_a_changed_byte_is_named(tried: Installation) -> None:
    """`--verify` exits 1 and names the record when a byte of the trail was changed, and 0 when it is put back."""
    trail = tried.state / "audit" / "lab.jsonl"
    whole = trail.read_bytes()
    trail.write_bytes(whole.replace(b'"deny"', b'"dent"', 1))
    try:
        done = tried("policy", "log", "lab", "--verify")
        assert done.status == 1
        assert "broken" in done.out
    finally:
        trail.write_bytes(whole)
    assert "unbroken" in tried.ok("policy", "log", "lab", "--verify")


def test_an_unknown_sandbox(tried: Installation) -> None:
    """The log of a sandbox that never was is an error with the closest name."""
    done = tried("policy", "log", "lap")
    assert (done.status, "`lab`" in done.err) == (1, True)


def test_changes_of_the_policy_for_other_programs(tried: Installation) -> None:
    """The trail of the policy is exported as events, filtered as rows are."""
    tried.ok("policy", "deny", "network", "denied.example.com")
    (event,) = [json.loads(line) for line in tried.ok("policy", "log", "_policy", "--format", "ocsf").splitlines()]
    assert (event["class_uid"], event["activity_id"]) == (3004, 1)
    assert event["unmapped"]["resources"] == ["denied.example.com"]
    assert tried("policy", "log", "_policy", "--format", "ocsf", "--until", "2001-01-01").out == ""
    assert tried("policy", "log", "_policy", "--format", "ocsf", "--decision", "allowed").out == ""
    assert len(tried.ok("policy", "log", "--format", "ocsf", "--limit", "1").splitlines()) == 1
