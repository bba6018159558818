"""Rounds: everybody in turn, as often as planned and as long as there is time, and failures kept with their reason."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

from benchmarks.processes import NotMeasuredError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from benchmarks.figures import Figures

    Metrics = Mapping[str, float]


def rounds(count: int, budget_s: float) -> Iterator[int]:
    """Yield the number of each round, at least of one; none begins that would, as the last one took, end too late."""
    began = time.monotonic()
    for number in range(count):
        yield number
        took_s = time.monotonic() - began
        if took_s + took_s / (number + 1) > budget_s:
            return


def take(figures: Figures, work: str, subject: str, measure: Callable[[], Metrics]) -> None:
    """Measure once, unless it has failed before; a failure is kept with its reason."""
    if (work, subject) in figures.failures:
        return
    try:
        figures.add(work, subject, **measure())
    except (NotMeasuredError, OSError, subprocess.SubprocessError) as error:
        figures.fail(work, subject, str(error))
