"""How a session ended, for those on the host: whether it has, and what its end left on record."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from sandhold.model.sandbox import Status
from sandhold.session import presence
from sandhold.session.remains import WORD_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from sandhold.store.records import Head, Record

ENDING_TIMEOUT_S: Final = 10.0  # between the session's last word and its last breath
LOOK_FIRST_S: Final = 0.001  # a look takes a tenth of it
LOOK_EVERY_S: Final = 0.02
WORD_CHARACTERS_MAX: Final = 400  # a line or a few at a terminal
LAST_RECORDS_MAX: Final = 200  # behind a session's end stand policy changes and little else


@dataclass(frozen=True, slots=True)
class End:
    """The end of a session as it stands in the trail: the head it left, where that could not be kept and why, and what
    changed in its folders that runs by itself (the record, None when nothing did)."""

    head: Head
    target: str | None = None
    problem: str | None = None
    changed: Record | None = None


def leave_word(folder: Path, text: str) -> None:
    """Leave what is known of an end that nobody asked for, for whoever is attached and for the next command to say.

    It is on record as well: a disk that is full takes nothing from anybody.
    """
    with contextlib.suppress(OSError):
        (folder / WORD_NAME).write_text(text[:WORD_CHARACTERS_MAX], "utf-8")


def word_left(folder: Path) -> str | None:
    """Return what the last session left of its end, None when somebody asked for that end or it was said already."""
    try:  # by the shortest way: `sbx ls` asks for each of a thousand
        descriptor = os.open(f"{folder}/{WORD_NAME}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            word = os.read(descriptor, 4 * WORD_CHARACTERS_MAX)  # what UTF-8 takes for a character at most
        finally:
            os.close(descriptor)
    except OSError:
        return None
    return word.decode("utf-8", "replace")[:WORD_CHARACTERS_MAX] or None


def forget_word(folder: Path) -> None:
    """Remove what the last session left of its end: a new one runs."""
    with contextlib.suppress(OSError):
        (folder / WORD_NAME).unlink()


def has_ended(folder: Path, timeout_s: float) -> bool:
    """Wait until the session of a sandbox's folder is gone; False when it still runs at the end of the wait."""
    deadline = time.monotonic() + timeout_s
    wait_s = LOOK_FIRST_S
    while presence.look(folder).status is Status.RUNNING:
        if time.monotonic() >= deadline:
            return False
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, LOOK_EVERY_S)
    return True


def find_end(trail: Path) -> End | None:
    """Return what the newest end of a session left on record, None when there is none among the last records."""
    from sandhold.store.records import Head, read_backwards  # noqa: PLC0415  who only waits for an end reads no trail

    found: End | None = None
    target = problem = None
    for record in islice(read_backwards(trail), LAST_RECORDS_MAX):
        if found is not None:  # the record before the end is of the same append
            return replace(found, changed=record) if record.kind == "workspace-changed" else found
        if record.kind == "anchor-failed":
            target, problem = record.target, record.problem
        if record.kind == "session-started":
            return None
        if record.kind == "session-stopped":
            found = End(Head(record.seq, record.hash), target, problem)
    return found
