"""Anchors: the head of a trail, kept where whoever changes the trail has no hand.

Rules:

1. The head of every session's end is remembered in the database, and shown.
2. A sandbox may have a place outside besides: a file that the head's line is appended to, or a command of the user's,
   written `|COMMAND` as in other logging programs, that gets the line on its standard input.
3. An anchor that fails is a record of its own in the trail, and whoever ends the session is told; nothing else is lost
   by it.
4. A file that the sandbox itself could write is no anchor, and is refused.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandhold.errors import EXIT_USAGE, SbxError
from sandhold.linux.process import run
from sandhold.model.event import AnchorFailed
from sandhold.session.circumstances import CLOCK
from sandhold.store import sandboxes
from sandhold.store.database import open_database
from sandhold.store.event_ids import new_event_id
from sandhold.store.heads import append_head, head_line
from sandhold.store.verification import remember_head

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandhold.model.sandbox import Mount
    from sandhold.paths import Paths
    from sandhold.store.audit import Trail
    from sandhold.store.records import Head

COMMAND: Final = "|"
COMMAND_TIMEOUT_S: Final = 20.0  # to tell another machine; the session's end waits, and `sbx stop` gives it 30 s
WORDS_MAX: Final = 200  # of what a failing command says: the rest is in its own log


def parse_anchor(text: str, mounts: Sequence[Mount]) -> str:
    """Read `FILE` or `|COMMAND`; a file's path becomes absolute.

    Raises:
        SbxError: when it is neither, or a file that the sandbox could write (rule 4).
    """
    if text.startswith(COMMAND):
        if not text.removeprefix(COMMAND).strip():
            raise SbxError("`|` needs a command", hint="for example `--anchor '|logger -t sbx'`", status=EXIT_USAGE)
        return text
    path = Path(text).expanduser()
    try:
        folder = path.parent.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise SbxError(f"`{path.parent}` is no folder that can be opened", status=EXIT_USAGE) from error
    whole = folder / path.name
    if not path.name or whole.is_symlink() or (whole.exists() and not whole.is_file()):
        raise SbxError(f"`{text}` is no file that heads can be appended to", status=EXIT_USAGE)
    inside = next((mount for mount in mounts if whole.is_relative_to(mount.path)), None)
    if inside is not None:
        raise SbxError(
            f"`{whole}` is in `{inside.path}`, which the sandbox sees",
            hint="an anchor is only worth something where the agent cannot change it",
            status=EXIT_USAGE,
        )
    return str(whole)


def anchor_end(paths: Paths, trail: Trail, sandbox: str, environ: Mapping[str, str]) -> str | None:
    """Anchor the head of a trail whose session has ended (rules 1 to 3); returns why it is not kept outside.

    What cannot be looked up or remembered now is no reason to lose the session's end: the trail itself is on disk.
    """
    problem = None
    with contextlib.suppress(SbxError), contextlib.closing(open_database(paths.database)) as database:
        found = sandboxes.find(database, sandbox)
        target = None if found is None else found.anchor
        if target is not None:
            problem = anchor_outside(target, sandbox, trail.head, environ)
            if problem is not None:
                record_failure(trail, target, trail.head, problem)
        remember_head(database, sandbox, trail.head)
    return problem


def anchor_outside(target: str, trail: str, head: Head, environ: Mapping[str, str]) -> str | None:
    """Give a head to a file or a command; returns why that failed, None when it did not."""
    line = head_line(trail, head, CLOCK.now())
    try:
        if not target.startswith(COMMAND):
            append_head(Path(target), line)
            return None
        command = target.removeprefix(COMMAND)
        done = run(["/bin/sh", "-c", command], stdin=line.encode("ascii"), timeout_s=COMMAND_TIMEOUT_S, env=environ)
    except OSError as error:  # TimeoutError is one
        return error.strerror or str(error)
    if done.status == 0:
        return None
    words = done.stderr.decode("utf-8", "replace").strip()[-WORDS_MAX:]
    return f"the command ended with status {done.status}{f': {words}' if words else ''}"


def record_failure(trail: Trail, target: str, head: Head, problem: str) -> None:
    """Put on record that the head was not kept outside (rule 3); on a full disk there are the words to the user."""
    failed = AnchorFailed(new_event_id(CLOCK.now()), target, head.seq, head.hash, problem)
    with contextlib.suppress(OSError):
        trail.append([failed])


def shown_target(target: str) -> str:
    """Say where heads go, for people."""
    return f"the command `{target.removeprefix(COMMAND)}`" if target.startswith(COMMAND) else f"`{os.fspath(target)}`"
