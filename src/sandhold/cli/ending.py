"""What a session's end leaves to be said: the head of the trail, and whether it was kept outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sandhold.cli import output
from sandhold.session.ends import find_end
from sandhold.store.heads import head_text

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
        from sandhold.session.anchoring import shown_target  # noqa: PLC0415  with policies; few ends have a problem

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
