"""Policy changes as the user makes them: recorded in every trail they concern, then in force, then made known.

The record comes first: a change that cannot be put on record in the host's own trail and in the trail of every sandbox
it covers is not made. When we are killed between the record and the change, the record is of a change that never was:
the next change says so first, with the event of that record.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandhold.errors import SbxError
from sandhold.model.event import EventId, PolicyChanged
from sandhold.model.rule import Generation
from sandhold.model.sandbox import Status
from sandhold.session import control, presence
from sandhold.session.circumstances import CLOCK, actor
from sandhold.store import sandboxes
from sandhold.store.audit import Trail
from sandhold.store.event_ids import new_event_id
from sandhold.store.records import read_backwards
from sandhold.store.rules import Editor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandhold.model.event import Event
    from sandhold.paths import Paths
    from sandhold.store.database import Database

APPLY_TIMEOUT_S: Final = 65.0  # above what egress allows itself to read a policy, to cut, and to put the ends on disk
HOST_SESSION: Final = "-"
NEVER_MADE: Final = "never-made"


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of `--now` in one running sandbox; `problem` says why it did not take the change over."""

    sandbox: str
    generation: int | None
    cut: int
    problem: str | None


def editor(paths: Paths, database: Database, sandbox: str | None) -> Editor:
    """Return who edits the policy of `sandbox` (None: of all), recording each change where it belongs."""
    now = time.time()

    def record(change: PolicyChanged) -> None:
        covered = change.sandbox if change.sandbox is not None else sandbox
        every = [each.name for each in sandboxes.list_all(database)]
        never_made = _never_made(paths, change)
        if never_made is not None:
            known = every if never_made.sandbox is None else [each for each in every if each == never_made.sandbox]
            record_everywhere(paths, known, never_made)
        record_everywhere(paths, every if covered is None else [covered], change)

    return Editor(actor(), new_event_id(now), now, record)


def record_everywhere(paths: Paths, names: Iterable[str], event: Event) -> None:
    """Put an event on record in the host's trail and in those of the sandboxes named.

    Raises:
        SbxError: when one of them cannot be written.
    """
    targets = [(paths.host_trail, HOST_SESSION), *((paths.trail(name), name) for name in names)]
    for path, name in targets:
        try:
            with Trail.open(path, name, HOST_SESSION, CLOCK) as trail:
                trail.append([event])
        except OSError as error:
            raise SbxError(
                f"the change could not be put on record in `{path}` ({error.strerror or error}), so it was not made",
                hint="free some disk space, or see `sbx policy log --verify`",
            ) from error


def _never_made(paths: Paths, change: PolicyChanged) -> PolicyChanged | None:
    """Return what takes back the record of a change that was never made: it has the generation that is only made now.

    Changes are made one at a time, each with its record inside its transaction, so that nothing but a kill between the
    two leaves such a record as the last of its kind.
    """
    of_changes = (record for record in read_backwards(paths.host_trail) if record.kind == "policy-changed")
    last = next(of_changes, None)
    if last is None or last.generation != change.generation or last.action == NEVER_MADE:
        return None
    return PolicyChanged(
        EventId(last.event),
        NEVER_MADE,
        change.actor,
        Generation(change.generation - 1),
        last.resources,
        last.rules,
        last.scope,
    )


def running_on_older(paths: Paths, database: Database, generation: int, sandbox: str | None) -> tuple[str, ...]:
    """Name the running sandboxes that a change concerns and that still run on an older generation."""
    return tuple(
        each.name
        for each in sandboxes.list_all(database)
        if (sandbox is None or each.name == sandbox) and _is_behind(paths, each.name, generation)
    )


def apply_now(paths: Paths, names: Iterable[str]) -> tuple[Applied, ...]:
    """Let running sandboxes take over the policy as it is now."""
    return tuple(_apply(paths, name) for name in names)


def _is_behind(paths: Paths, name: str, generation: int) -> bool:
    found = presence.look(paths.sandbox(name))
    return found.status is Status.RUNNING and (found.marker is None or found.marker.generation < generation)


def _apply(paths: Paths, name: str) -> Applied:
    channel = control.connect(paths.sandbox(name))
    if channel is None:
        return Applied(name, None, 0, "its session does not answer")
    with channel:
        try:
            channel.send(control.Apply())
            reply, _ = channel.receive_reply(APPLY_TIMEOUT_S)
        except control.ChannelError as error:
            return Applied(name, None, 0, str(error))
    if isinstance(reply, control.Applied):
        return Applied(name, reply.generation, reply.cut, None)
    return Applied(name, None, 0, reply.message if isinstance(reply, control.Failed) else "an answer that fits not")
