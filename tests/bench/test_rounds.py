"""Rounds end in time and keep the reason of a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.figures import Figures
from benchmarks.processes import NotMeasuredError
from benchmarks.rounds import rounds, take

if TYPE_CHECKING:
    from benchmarks.rounds import Metrics


def test_there_is_one_round_whatever_the_budget() -> None:
    """A work that takes longer than it may is measured once, never left out."""
    assert list(rounds(5, 0.0)) == [0]


def test_no_round_is_left_out_while_there_is_time() -> None:
    """Where the budget is far away, every planned round takes place."""
    assert list(rounds(4, 3600.0)) == [0, 1, 2, 3]


def test_what_failed_is_not_tried_again() -> None:
    """A failure has its reason in the report, and the rounds go on without the subject."""
    figures, tried = Figures(), []

    def broken() -> Metrics:
        tried.append(True)
        raise NotMeasuredError("does not listen")

    for _ in range(3):
        take(figures, "bulk", "squid", broken)
        take(figures, "bulk", "haproxy", lambda: {"gb_per_s": 1.0})
    assert figures.failures == {("bulk", "squid"): "does not listen"}
    assert len(tried) == 1
    assert [len(values) for values in figures.values.values()] == [3]
