"""What is said around a command inside: of a session that was started for it, and of its end, if there is something."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from sandhold.cli import output
from sandhold.session import staying

if TYPE_CHECKING:
    from sandhold.session.terminals.copies import Outcome


def say(outcome: Outcome, sandbox: str, folder: str, *, at_terminal: bool) -> None:
    """Say how a command in a sandbox, which has this folder on the host, has ended."""
    detail = _why_cut_off(folder) if outcome.is_cut_off else outcome.detail
    if detail is not None:
        if at_terminal:
            output.say("")  # the command inside left the cursor wherever it was
        output.fail(detail, None)
    if outcome.has_left:
        output.say(f"\nleft `{sandbox}`, the command goes on")
        output.hint(f"come back to its agent with `sbx run {sandbox}`, end it with `sbx stop {sandbox}`")


def say_notes(folder: str) -> None:
    """Say to somebody at a terminal what this host cannot give to the sandbox with this folder, which was started."""
    if sys.stderr.isatty():
        for note in staying.notes(folder):
            output.hint(note)


def _why_cut_off(folder: str) -> str:
    """Say why the session went away while a command ran."""
    from pathlib import Path  # noqa: PLC0415  a command that ends as programs do is quick

    from sandhold.session.ends import word_left  # noqa: PLC0415

    word = word_left(Path(folder))
    return "the sandbox was stopped" if word is None else output.safe(f"the sandbox ended by itself: {word}")
