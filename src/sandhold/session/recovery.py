"""What a killed session left behind, put in order by the next command that comes along; and what a killed egress did,
put in order by its session.

Its processes and its network went with it (the kernel saw to that); what is left is records without an end, a marker,
and perhaps an empty control group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandhold.model.event import Closed, SessionStopped, Why
from sandhold.session import presence
from sandhold.session.anchoring import anchor_end
from sandhold.session.circumstances import CLOCK
from sandhold.session.presence import UNKNOWN_SESSION
from sandhold.session.workspace.protection import changed_since, forget_baseline
from sandhold.store.audit import Trail
from sandhold.store.event_ids import new_event_id
from sandhold.store.records import read_backwards
from sandhold.store.summary import unclosed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sandhold.model.event import Event
    from sandhold.paths import Paths
    from sandhold.session.presence import Marker


def recover(paths: Paths, name: str, marker: Marker, environ: Mapping[str, str]) -> int:
    """Record the end of the lost session and of every connection it had open, and anchor it; returns how many those
    were.

    How much went over them and for how long died with the session. A marker that says nothing stands for the session
    that started last. The caller holds the sandbox.

    Raises:
        OSError: when the trail cannot be written; the marker stays, and the next command tries again.
    """
    path = paths.trail(name)
    session = _started_last(path) if marker.session == UNKNOWN_SESSION else marker.session
    ends = ends_of_lost(path, session)
    count = len(ends)
    if _is_without_end(path, session):
        changed = changed_since(paths.sandbox(name), new_event_id(CLOCK.now()))
        ends += [] if changed is None else [changed]
        ends.append(SessionStopped(new_event_id(CLOCK.now()), "lost"))
    with Trail.open(path, name, session, CLOCK) as trail:
        trail.append(ends)
        presence.remove_marker(paths.sandbox(name))
        forget_baseline(paths.sandbox(name))
        if ends:
            anchor_end(paths, trail, name, environ)
    return count


def ends_of_lost(trail_path: Path, session: str) -> list[Event]:
    """Return an end for each connection and request that a session allowed and that has none on record."""
    open_events = unclosed(read_backwards(trail_path), session)
    return [Closed(event, None, 0, 0, 0.0, Why.LOST) for event in open_events]


def _is_without_end(trail: Path, session: str) -> bool:
    """Whether a session's start is on record and its end is not; one that was killed before that never started."""
    of_session = (record.kind for record in read_backwards(trail) if record.session == session)
    return next((kind == "session-started" for kind in of_session if kind.startswith("session-")), False)


def _started_last(trail: Path) -> str:
    started = (record.session for record in read_backwards(trail) if record.kind == "session-started")
    return next(started, UNKNOWN_SESSION)
