"""What a killed session left is put in order: an end for each start that is on record, and for nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandhold.model.event import EventId, SessionStarted, SessionStopped
from sandhold.model.rule import Generation
from sandhold.paths import Paths
from sandhold.session.circumstances import CLOCK
from sandhold.session.presence import UNKNOWN_SESSION, Marker
from sandhold.session.recovery import recover
from sandhold.store.audit import Trail
from sandhold.store.records import read_backwards

if TYPE_CHECKING:
    from pathlib import Path

STARTED = SessionStarted(EventId("E1"), "ada", "shell", "namespaces", "host", Generation(1), "0.1.0")
STOPPED = SessionStopped(EventId("E2"), "stopped")

LEFT = {
    "killed while it ran": ([STARTED], "S1", ["session-started", "session-stopped"]),
    "killed after its end": ([STARTED, STOPPED], "S1", ["session-started", "session-stopped"]),
    "killed before its start was on record": ([STARTED, STOPPED], "S2", ["session-started", "session-stopped"]),
    "killed before anything was": ([], "S1", []),
    "its marker says nothing": ([STARTED], UNKNOWN_SESSION, ["session-started", "session-stopped"]),
}


@pytest.mark.parametrize(("events", "session", "kinds"), LEFT.values(), ids=LEFT)
def test_ends(tmp_path: Path, events: list[SessionStarted | SessionStopped], session: str, kinds: list[str]) -> None:
    """Every start on record has one end, whatever the marker of the killed session says."""
    paths = Paths(tmp_path / "state", tmp_path / "data", tmp_path / "config")
    paths.sandbox("lab").mkdir(parents=True)
    with Trail.open(paths.trail("lab"), "lab", "S1", CLOCK) as trail:
        trail.append(events)
    assert recover(paths, "lab", Marker(session, 0, 1, 0.0), {}) == 0
    records = list(reversed([*read_backwards(paths.trail("lab"))]))
    assert [record.kind for record in records] == kinds
    assert {record.session for record in records} <= {"S1"}
