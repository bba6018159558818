"""The code that a machine is given: all that the guest agent imports, and no more."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import sandhold
from sandhold.cell.machine.code import MODULES, with_agent

SOURCE = Path(sandhold.__file__).parent


def imported(name: str) -> set[str]:
    """Return the modules of this package that one imports when it runs."""
    tree = ast.parse((SOURCE / name).read_text())
    return {
        node.module.removeprefix("sandhold.").replace(".", "/") + ".py"
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("sandhold.")
    }


def test_the_list_is_what_the_agent_imports() -> None:
    """The modules given are those that are reached from the agent by imports, each and no other."""
    found, left = set[str](), {"cell/guest/agent.py"}
    while left:
        name = left.pop()
        found.add(name)
        left |= imported(name) - found
    assert set(MODULES) == found


def test_the_agent_comes_after_the_first_archive(tmp_path: Path) -> None:
    """The kernel's own archive is kept as it is, the agent's begins at a multiple of four, and both are one file."""
    first = tmp_path / "initramfs"
    first.write_bytes(b"070701" + b"x" * 101)
    fd = with_agent(first)
    data = os.pread(fd, 1 << 24, 0)
    os.close(fd)
    assert data.startswith(first.read_bytes())
    assert data[108:114] == b"070701"
    assert data.index(b"TRAILER!!!") > data.index(b"guest/agent.py")


def test_the_agent_imports_with_nothing_else_there(tmp_path: Path) -> None:
    """An isolated interpreter that has only the given files can import the agent."""
    for name in MODULES:
        target = tmp_path / "sandhold" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((SOURCE / name).read_bytes())
    program = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; from sandhold.cell.guest.agent import main"
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True, timeout=60)
