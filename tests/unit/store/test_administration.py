"""Records about a sandbox and its policy as OCSF events that fit the published schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from sandhold.model.event import (
    AnchorFailed,
    EventId,
    FileChange,
    GenerationSwitched,
    PolicyChanged,
    Recovered,
    SessionStarted,
    SessionStopped,
    Verified,
    WorkspaceChanged,
)
from sandhold.model.rule import Generation
from sandhold.store.administration import ocsf_change
from sandhold.store.encoding import FIRST_PREVIOUS, Envelope, encode_line
from sandhold.store.records import decode_record
from tests.unit.store.ocsf import problems
from tests.unit.store.samples import NOON, closed, connection, established, lookup, request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandhold.model.event import Event

E1 = EventId("E1")


def written(event: Event) -> dict[str, object] | None:
    line = encode_line(Envelope(1, NOON, 1, "lab", "s1"), event, FIRST_PREVIOUS)[0]
    return ocsf_change(decode_record(line[:-1]))


def policy_changed(action: str) -> PolicyChanged:
    return PolicyChanged(E1, action, "ada", Generation(8), ("example.com:22",), ("local:1",), None, NOON + 60)


CHANGES: Mapping[str, tuple[Event, int, int]] = {
    "a rule that was added": (policy_changed("allow"), 3004, 1),
    "a rule that was removed": (policy_changed("rm"), 3004, 4),
    "another posture": (policy_changed("init"), 3004, 3),
    "a change that was never made": (policy_changed("never-made"), 3004, 99),
    "a policy that was taken over": (GenerationSwitched(E1, Generation(7), Generation(8), 2), 3004, 10),
    "a start": (SessionStarted(E1, "ada", "shell", "namespaces", "host", Generation(7), "0.1"), 6002, 3),
    "a stop": (SessionStopped(E1, "stopped", "ada"), 6002, 4),
    "an end that nobody asked for": (SessionStopped(E1, "cell-died", detail="out of memory"), 6002, 4),
    "a trail that was torn": (Recovered(E1, 17), 6002, 99),
    "a head that was not kept": (AnchorFailed(E1, "/mnt/heads", 9, "0" * 64, "no folder"), 6002, 99),
    "an attempt to break out": (Verified(E1, 47, 0, 2), 6007, 2),
    "an attempt that got out": (Verified(E1, 47, 1, 2), 6007, 2),
    "a workspace that was changed": (
        WorkspaceChanged(E1, (FileChange("new", "/w/Makefile", "a build runs it"),), 0, None), 2004, 1
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "kind", "activity"), CHANGES.values(), ids=CHANGES)
def test_events_fit_the_schema(change: Event, kind: int, activity: int) -> None:
    """Every record is an event of its class, with all that the schema requires and nothing that it does not know."""
    event = written(change)
    assert event is not None
    assert (event["class_uid"], event["activity_id"]) == (kind, activity)
    assert problems(event) == []
    assert json.loads(json.dumps(event)) == event


@pytest.mark.parametrize(
    "event", [connection("E1"), request("E1", "E0"), established("E1"), closed("E1"), lookup("E1")]
)
def test_what_rows_are_made_of(event: Event) -> None:
    """A record that is part of a row is no event of its own, nor is one that cannot be read."""
    assert written(event) is None
    assert ocsf_change(decode_record(b"garbage")) is None


def test_what_an_event_says() -> None:
    """Who did it, to what, and whether it went well are where the schema has them."""
    changed = written(policy_changed("allow"))
    assert changed is not None
    assert changed["actor"] == {"user": {"name": "ada"}}
    assert changed["entity"] == {"name": "network policy", "type_id": 5, "type": "Policy", "version": "8"}
    assert changed["unmapped"] == {
        "resources": ["example.com:22"],
        "rules": ["local:1"],
        "expires_at": "2026-01-01T12:01:00.000000Z",
    }
    died = written(SessionStopped(E1, "cell-died", detail="out of memory"))
    assert died is not None
    assert (died["status_id"], died["status_detail"]) == (2, "cell-died; out of memory")
    escaped, held = written(Verified(E1, 47, 1, 2)), written(Verified(E1, 47, 0, 2))
    assert escaped is not None
    assert held is not None
    assert (escaped["severity_id"], escaped["status_id"], escaped["num_detections"]) == (5, 2, 1)
    assert (held["severity_id"], held["status_id"], held["total"], held["num_skipped_items"]) == (1, 1, 47, 2)
