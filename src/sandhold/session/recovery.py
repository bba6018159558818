"""What a killed session left behind, put in order by the next command that comes along; and what a killed egress did,
put in order by its session.

Its processes and its network went with it (the kernel saw to that); what is left is records without an end, a marker,
and perhaps an empty control group.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from sandhold.model.event import Closed, SessionStopped, Why
from sandhold.session import presence
from sandhold.session.policies import CLOCK
from sandhold.store.audit import Trail
from sandhold.store.event_ids import new_event_id
from sandhold.store.records import read_backwards
from sandhold.store.summary import unclosed

if TYPE_CHECKING:
    from pathlib import Path

    from sandhold.model.event import Event
    from sandhold.session.presence import Marker


def recover(folder: Path, trail_path: Path, name: str, marker: Marker) -> int:
    """Record the end of the lost session and of every connection it had open; returns how many those were.

    How much went over them and for how long died with the session. The caller holds the sandbox.

    Raises:
        OSError: when the trail cannot be written; the marker stays, and the next command tries again.
    """
    ends = ends_of_lost(trail_path, marker.session)
    count = len(ends)
    newest = next(islice(read_backwards(trail_path), 1), None)
    if newest is None or newest.kind != "session-stopped":
        ends.append(SessionStopped(new_event_id(CLOCK.now()), "lost"))
    with Trail.open(trail_path, name, marker.session, CLOCK) as trail:
        trail.append(ends)
    presence.remove_marker(folder)
    return count


def ends_of_lost(trail_path: Path, session: str) -> list[Event]:
    """Return an end for each connection and request that a session allowed and that has none on record."""
    open_events = unclosed(read_backwards(trail_path), session)
    return [Closed(event, None, 0, 0, 0.0, Why.LOST) for event in open_events]
