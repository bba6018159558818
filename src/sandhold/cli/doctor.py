"""`sbx doctor`: what this host can do and what is missing, each line with the command that fixes it."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from sandhold.cli import output
from sandhold.errors import EXIT_FAILED
from sandhold.paths import Paths
from sandhold.session.doctor import examine

if TYPE_CHECKING:
    from sandhold.session.doctor import Check

_COLUMN = len("missing") + 2


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> int:  # noqa: FBT001 - click passes flags so
    """Show what this host can do and what is missing."""
    checks = examine(Paths.from_environment(os.environ))
    if as_json:
        output.show_json([asdict(check) for check in checks])
    else:
        for check in checks:
            word, colour = _mark(check)
            output.show(
                f"{output.paint(word, colour)}{' ' * (_COLUMN - len(word))}{check.name}: {output.safe(check.found)}"
            )
            if check.fix is not None:
                output.show(f"{' ' * _COLUMN}{check.fix}")
    return 0 if all(check.is_ok or not check.is_needed for check in checks) else EXIT_FAILED


def _mark(check: Check) -> tuple[str, str]:
    if check.is_ok:
        return "ok", "green"
    return ("missing", "red") if check.is_needed else ("without", "yellow")
