"""The trail as evidence: heads shown and kept outside find what nothing in this installation could."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.installation import Installation


@pytest.fixture
def heads(sbx: Installation, project: Path) -> Path:
    """Create a sandbox `lab` whose heads are kept in a file outside."""
    file = sbx.home / "heads"
    sbx.ok("create", "--template", "host", "--name", "lab", "--anchor", str(file), "shell", ".", folder=project)
    return file


def test_put_back_to_an_older_state(sbx: Installation, heads: Path) -> None:
    """A trail that is put back together with all of our state is intact by itself; the file outside shows it."""
    assert "sha256:" in sbx("run", "lab", "--", "-c", "true").err
    older = sbx.home / "older"
    shutil.copytree(sbx.state, older, symlinks=True)
    sbx.ok("run", "lab", "--", "-c", "curl -s http://exfil.example.com/; true")
    assert "exfil.example.com" in sbx.ok("policy", "log", "lab")
    assert ", 2 heads kept elsewhere are in it" in sbx.ok("policy", "log", "lab", "--verify", "--anchor", str(heads))
    for part in ("audit/lab.jsonl", "sandhold.db"):
        shutil.copy(older / part, sbx.state / part)
    for leftover in ("sandhold.db-wal", "sandhold.db-shm"):
        (sbx.state / leftover).unlink(missing_ok=True)
    assert "exfil.example.com" not in sbx.ok("policy", "log", "lab")
    assert "unbroken" in sbx.ok("policy", "log", "lab", "--verify")
    found = sbx("policy", "log", "lab", "--verify", "--anchor", str(heads))
    assert (found.status, "was anchored: its end was cut off" in found.out) == (1, True)


def test_the_head_that_is_shown_is_the_trails(sbx: Installation, heads: Path) -> None:
    """`run`, `stop` and `run --rm` show the head of the session's end; the file outside gets the same."""
    shown = re.findall(r"([0-9]+) sha256:([0-9a-f]{64})", sbx("run", "lab", "--", "-c", "true").err)
    last = sbx.records("lab")[-1]
    assert shown == [(str(last["seq"]), last["hash"])]
    assert heads.read_text().split()[1:] == ["lab", str(last["seq"]), f"sha256:{last['hash']}"]
    sbx.ok("run", "-d", "lab")
    stopped = sbx("stop", "lab", "--anchor", f"|cat > {sbx.home}/piped")
    last = sbx.records("lab")[-1]
    assert last["kind"] == "session-stopped"
    assert stopped.err.count(last["hash"]) == 2
    assert (sbx.home / "piped").read_text().split()[1:] == ["lab", str(last["seq"]), f"sha256:{last['hash']}"]
    said = sbx("run", "--rm", "lab", "--", "-c", "true").err
    assert sbx.records("lab")[-1]["hash"] in said


def test_an_anchor_that_fails_is_said_loudly(sbx: Installation, project: Path) -> None:
    """A place that takes no head is a warning and a record; the command's own status stays, the trail is whole."""
    sbx.ok("create", "--template", "host", "--name", "lab", "--anchor", "|exit 7", "shell", ".", folder=project)
    done = sbx("run", "lab", "--", "-c", "exit 3")
    assert (done.status, "warning: " in done.err, "status 7" in done.err) == (3, True, True)
    assert sbx.records("lab")[-1]["kind"] == "anchor-failed"
    assert "unbroken" in sbx.ok("policy", "log", "lab", "--verify")
    failed = sbx("stop", "--anchor", str(sbx.home / "nosuch" / "heads"), "lab")
    assert (failed.status, "no folder" in failed.err) == (2, True)
    assert sbx("stop", "--anchor", "|exit 8", "lab").status == 1


def test_a_trail_that_was_deleted(sbx: Installation, heads: Path) -> None:
    """A trail that is gone is found by the head that was remembered, with or without its name, its sandbox gone too."""
    sbx.ok("run", "lab", "--", "-c", "true")
    sbx.ok("rm", "lab")
    (sbx.state / "audit" / "lab.jsonl").unlink()
    for words in ((), ("lab",), ("--anchor", str(heads))):
        found = sbx("policy", "log", *words, "--verify")
        assert (found.status, "lab: broken after 0 records" in found.out) == (1, True)
    facts = json.loads(sbx("policy", "log", "lab", "--verify", "--json").out)
    assert [(each["trail"], each["is_intact"], each["records"]) for each in facts] == [("lab", False, 0)]


def test_nothing_to_compare_is_no_success(sbx: Installation, heads: Path) -> None:
    """A file without a head of the trail, or without any, or with something else in it, verifies nothing."""
    sbx.ok("run", "lab", "--", "-c", "true")
    other = sbx.home / "other"
    for text in ("", "hello\n", heads.read_text().replace(" lab ", " other ")):
        other.write_text(text)
        assert sbx("policy", "log", "lab", "--verify", "--anchor", str(other)).status != 0
    assert sbx("policy", "log", "lab", "--anchor", str(heads)).status == 2


def test_who_inside_it_was(sbx: Installation, project: Path) -> None:
    """A connection's record names the user inside who made it, and so do the rows that other programs read."""
    sbx.ok("create", "--template", "host", "--name", "lab", "shell", ".", folder=project)
    sbx.ok("run", "lab", "--", "-c", "curl -s http://one.example.com/; true")
    sbx("exec", "-u", "root", "lab", "curl", "-s", "http://two.example.com/")
    users = {
        record["host"]: record["user"] for record in sbx.records("lab") if record["kind"] in ("connection", "request")
    }
    assert users == {"one.example.com": 1000, "two.example.com": 0}
    events = [json.loads(line) for line in sbx.ok("policy", "log", "lab", "--format", "ocsf").splitlines()]
    tried = [
        each for each in events if "actor" in each and "dst_endpoint" in each
    ]  # starts and stops have an actor too
    uids = {each["dst_endpoint"]["hostname"]: each["actor"]["user"]["uid"] for each in tried}
    assert uids == {"one.example.com": "1000", "two.example.com": "0"}
