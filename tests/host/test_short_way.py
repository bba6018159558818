"""A plain command goes a shorter way, into real sandboxes too: what a person sees is the same."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.installation import SOURCE, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.installation import Installation
    from tests.isolation import Kind

SHORT, LONG = (
    (
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(SOURCE)!r}); from {module} import main; sys.exit(main())",
    )
    for module in ("sandhold.__main__", "sandhold.cli.main")
)
SCRIPT = "echo out; echo err >&2; read line; echo $line; exit 3"
PLAIN = {
    "a command": ("exec", "-i", "shell-project", "sh", "-c", SCRIPT),
    "an agent": ("run", "shell-project", "--", "-c", SCRIPT),
    "an agent in its folder": ("run", "shell", "--", "-c", SCRIPT),
    "a program that is not there": ("exec", "shell-project", "no-such-program"),
}


def status(sbx: Installation) -> str:
    """Return what `ls` says of the sandbox."""
    return sbx.ok("ls").splitlines()[1].split()[2]


def typed(sbx: Installation, program: tuple[str, ...], words: tuple[str, ...], project: Path) -> tuple[int, str, str]:
    """Type a command one way; the head of the trail, which each end moves on, is left out."""
    done = replace(sbx, program=program)(*words, folder=project, given="in\n")
    return done.status, done.out, re.sub(r"[0-9]+ sha256:[0-9a-f]{64}", "HEAD", done.err)


@pytest.mark.parametrize("is_kept", [True, False], ids=["it runs", "it is stopped"])
def test_both_ways_are_one(sbx: Installation, project: Path, isolation: Kind, is_kept: bool) -> None:  # noqa: FBT001 - a case
    """Status, output and talk are the same both ways, whether the sandbox runs or has to be started."""
    sbx.ok("create", *isolation.quickest, "shell", ".", folder=project)
    if is_kept:
        sbx.ok("run", "-d", "shell-project")
    for words in PLAIN.values():
        ends = []
        for program in (SHORT, LONG):
            if not is_kept:
                wait_until(lambda: status(sbx) == "stopped", "the one before has ended")
            ends.append(typed(sbx, program, words, project))
        assert ends[0] == ends[1], words
        if words[-1] == SCRIPT:
            assert ends[0][:2] == (3, "out\nin\n")
            assert ("audit trail of `shell-project`: HEAD" in ends[0][2]) == (words[0] == "run" and not is_kept)
        else:
            assert ends[0][0] == 127
    if is_kept:
        assert status(sbx) == "running"
