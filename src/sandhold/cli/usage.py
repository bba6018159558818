"""What is wrong with the words that were typed, said as everything else here is said."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

_QUOTED: Final = re.compile(r"'([^'\n]*)'")


def complaint(error: click.UsageError) -> tuple[str, str]:
    """Return what is wrong and what to type next."""
    command = error.ctx.command_path if error.ctx is not None else "sbx"
    see_help = f"`{command} --help` shows how it is used"
    match error:
        case click.NoSuchOption():
            return f"`{command}` has no option `{error.option_name}`", _meant(error.possibilities) or see_help
        case click.MissingParameter() if error.param is not None and error.ctx is not None:
            return f"`{command}` needs {error.param.make_metavar(error.ctx)}", see_help
        case _:
            return _in_house_style(error.format_message()), see_help


def _meant(possibilities: Sequence[str] | None) -> str | None:
    return "did you mean " + " or ".join(f"`{each}`" for each in possibilities) + "?" if possibilities else None


def _in_house_style(text: str) -> str:
    """Write click's sentence in lower case, literals in backticks, without a period."""
    plain = _QUOTED.sub(r"`\1`", text).rstrip(".")
    return plain[:1].lower() + plain[1:]
