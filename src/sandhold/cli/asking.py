"""Questions to the person at the terminal; none is ever put where nobody can answer it."""

from __future__ import annotations

import select
import sys
from typing import TYPE_CHECKING, Final

from sandhold.cli import output
from sandhold.errors import EXIT_USAGE, SbxError

if TYPE_CHECKING:
    import click

_ANSWER_CHARACTERS_MAX: Final = 80  # the rest of a longer line is nobody's answer
_NOTICED_S: Final = 0.5  # how late a Ctrl-C is heard at the worst


def may_ask(context: click.Context) -> bool:
    """Whether somebody sits at a terminal and did not say `--no-input`."""
    return not context.find_root().obj["no_input"] and sys.stdin.isatty() and sys.stderr.isatty()


def agrees(question: str) -> bool:
    """Put a question whose answer is no unless it is yes."""
    output.ask(f"{question} [y/N] ")
    while not select.select([sys.stdin], [], [], _NOTICED_S)[0]:
        pass  # a Ctrl-C right before a read(2) begins does not interrupt it (signal(7)): none begins without an answer
    answer = sys.stdin.readline(_ANSWER_CHARACTERS_MAX)
    if not answer.endswith("\n"):
        output.say("")  # Ctrl-D leaves the cursor behind the question
    return answer.strip().lower() in {"y", "yes"}


def ask_before_deleting(context: click.Context, question: str) -> None:
    """Ask before something is deleted.

    Raises:
        SbxError: when nobody can be asked, or the answer is no.
    """
    if not may_ask(context):
        raise SbxError(
            f"`{context.command_path}` asks before it deletes, and nobody can be asked here",
            hint=f"`{context.command_path} --force` does not ask",
            status=EXIT_USAGE,
        )
    if not agrees(question):
        raise SbxError("nothing was deleted")
