"""The first command of the README, in a clone that nobody has used yet."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tests.installation import Terminal

if TYPE_CHECKING:
    from tests.installation import Installation

CLONE = Path(__file__).resolve().parents[2]
PARTS = ("sbx", "scripts", "pyproject.toml", "README.md", "LICENSE", "src")  # what a start reads


def test_the_first_command_ends_at_a_prompt_inside(sbx: Installation) -> None:
    """`./sbx run shell` makes the clone ready by itself and ends at a prompt inside, in the clone's own folder."""
    clone = sbx.home / "clone"
    clone.mkdir()
    for part in PARTS:
        (shutil.copytree if (CLONE / part).is_dir() else shutil.copy)(CLONE / part, clone / part)
    variables = [
        f"{name}={value}" for name, value in sbx.environment.items() if name.startswith(("XDG_", "CI", "TERM"))
    ]
    terminal = Terminal(["env", *variables, "./sbx", "run", "shell"], clone)
    try:
        terminal.expect("$ ", timeout_s=300)
        terminal.type("echo in''side $SBX_SANDBOX; pwd\r")
        terminal.expect("inside shell-clone")
        terminal.expect(str(clone))
        terminal.expect("$ ")
        terminal.type("exit\r")
        assert terminal.wait() == 0
    finally:
        terminal.close()
    assert os.access(clone / ".venv" / "bin" / "sbx", os.X_OK)
