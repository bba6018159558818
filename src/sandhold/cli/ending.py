"""What a session's end leaves to be said: the head of the trail, and whether it is kept outside."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from sandhold.cli import output
from sandhold.errors import SbxError
from sandhold.session.anchoring import anchor_outside, record_failure, shown_target
from sandhold.session.circumstances import CLOCK
from sandhold.session.ends import find_end
from sandhold.session.policies import HOST_SESSION
from sandhold.store.audit import Trail
from sandhold.store.heads import head_text
from sandhold.store.records import head as trail_head

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandhold.paths import Paths
    from sandhold.store.records import FileChanged, Record

SHOWN_MAX: Final = 20  # a screen; the record has them all
ALIKE_MAX: Final = 5  # of one folder, which a package manager fills by the hundred


def say_end(paths: Paths, name: str) -> None:
    """Say what the newest end of a session left; nothing when none is on record."""
    end = find_end(paths.trail(name))
    if end is None:
        return
    if end.changed is not None:
        _say_changed(end.changed)
    output.say(f"audit trail of `{name}`: {head_text(end.head)}")
    if end.problem is not None:
        where = shown_target(end.target or "")
        output.warn(output.safe(f"{where} did not take this head, which is on record here only: {end.problem}"))
        output.hint(f"keep it yourself with `sbx stop --anchor FILE {name}`")


def _say_changed(record: Record) -> None:
    """Say what of the folders runs by itself and changed, grouped where one folder has many."""
    count = len(record.files) + (record.more or 0)
    if count:
        what = "1 file that runs by itself" if count == 1 else f"{count} files that run by themselves"
        output.warn(f"{what} outside changed; look before you use them")
        lines = _grouped(record.files)
        for line in lines[:SHOWN_MAX]:
            output.say(f"  {output.safe(line)}")
        if len(lines) > SHOWN_MAX or record.more:
            output.say(f"  ... all of them: `sbx policy log {output.safe(record.sandbox)} --json`")
    if record.unseen is not None:
        output.warn(output.safe(f"not everything was looked at: {record.unseen}"))


def _grouped(files: Sequence[FileChanged]) -> list[str]:
    """Return a line for each file, or one for a folder that has more than `ALIKE_MAX` for the same reason."""
    alike: dict[tuple[str, str], list[FileChanged]] = {}
    for each in files:
        alike.setdefault((each.path.rpartition("/")[0], each.why), []).append(each)
    lines = []
    for (folder, why), members in alike.items():
        if len(members) > ALIKE_MAX:
            lines.append(f"{folder}/: {len(members)} files; {why}")
        else:
            lines += [f"{each.path} ({each.what}): {why}" for each in members]
    return lines


def keep_end(paths: Paths, name: str, target: str) -> bool:
    """Keep the head of a stopped sandbox's trail at a place of the user's choice; whether that worked, said either way.

    Raises:
        SbxError: when the trail has no head that could be kept.
    """
    try:
        head = trail_head(paths.trail(name))
        with Trail.open(paths.trail(name), name, HOST_SESSION, CLOCK) as trail:
            problem = anchor_outside(target, name, head, os.environ)
            if problem is not None:
                record_failure(trail, target, head, problem)
    except (OSError, ValueError) as error:
        raise SbxError(f"the trail of `{name}` has no head that can be kept: {error}") from error
    if problem is None:
        output.say(f"kept {head_text(head)} at {output.safe(shown_target(target))}")
        return True
    output.warn(output.safe(f"{shown_target(target)} did not take the head of `{name}`: {problem}"))
    return False
