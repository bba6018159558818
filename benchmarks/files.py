"""File work inside a sandbox over the same work on the host: the same program, the same folder, the same tools.

The program times each step itself, so that starting is not in it. Inside and outside take turns, and turns at being
the first: what comes second finds more in the caches.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.processes import NotMeasuredError
from benchmarks.rounds import rounds, take
from benchmarks.sandbox import installed, sandbox

if TYPE_CHECKING:
    from benchmarks.figures import Figures
    from benchmarks.rounds import Metrics
    from benchmarks.world import World

BUDGET_S: Final = 150.0  # of the half hour that everything may take: fifty thousand files
PROGRAM: Final = Path(__file__).with_name("load") / "filework.py"
STEP_TIMEOUT_S: Final = 300.0  # the slowest step takes seconds
NAME: Final = "files"


def measure(world: World, figures: Figures, *, count_of_rounds: int, count: int) -> None:
    """Prepare an archive, a repository of `count` files and a package, then do the work inside and outside in turn."""
    sbx = installed(world)
    with world.every_cpu(), sandbox(world, sbx, NAME, every_cpu=True) as workspace:
        shutil.copy(PROGRAM, workspace / "filework.py")
        program = ["python3", str(workspace / "filework.py"), str(workspace)]
        ways = {"host": ["env", "-i", "PATH=/usr/bin:/bin", f"HOME={workspace}", *program]}
        ways["inside"] = sbx.argv("exec", NAME, *program)
        _run([*ways["host"], "prepare", str(count)])
        for number in rounds(count_of_rounds, BUDGET_S):
            turns = list(ways.items()) if number % 2 == 0 else list(reversed(ways.items()))
            for step in ("unpack", "status", "install"):
                for way, argv in turns:
                    take(figures, f"files-{step}", way, functools.partial(_run, [*argv, step, str(count)]))


def _run(argv: list[str]) -> Metrics:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=STEP_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise NotMeasuredError(f"{done.stdout.strip()[-200:]} {done.stderr.strip()[-300:]}")
    answer: dict[str, float] = json.loads(done.stdout)
    return answer
