"""The arithmetic of a report is right: medians, spreads, ratios, verdicts, tables."""

from __future__ import annotations

import pytest

from benchmarks.figures import Figure, Figures, Target, Verdict, as_json, judge, percentile, spread
from benchmarks.report import number, table, target_table

OURS = Figure("bulk", "sandhold", "cpu_s_per_gb")
PEERS = Figure("bulk", "squid", "cpu_s_per_gb")


def figures(ours: list[float], theirs: list[float]) -> Figures:
    """Rounds of two subjects, interleaved as they are measured."""
    made = Figures()
    for value in ours:
        made.add("bulk", "sandhold", cpu_s_per_gb=value)
    for value in theirs:
        made.add("bulk", "squid", cpu_s_per_gb=value)
    return made


VERDICTS = {
    "the ratio of the medians is judged, not that of the best": ([0.5, 9.0, 0.4], [1.0, 0.1, 1.0], 0.5, Verdict.MET),
    "a ratio above the target is missed": ([0.6], [1.0], 0.6 / 1.0, Verdict.MISSED),
    "what has no figure is not measured, never met": ([], [1.0], None, Verdict.UNKNOWN),
    "what a peer has no figure for is not measured, never met": ([0.1], [], None, Verdict.UNKNOWN),
    "a peer that cost nothing gives no ratio": ([0.1], [0.0], None, Verdict.UNKNOWN),
}


@pytest.mark.parametrize(("ours", "theirs", "ratio", "verdict"), VERDICTS.values(), ids=VERDICTS)
def test_a_ratio_is_judged(ours: list[float], theirs: list[float], ratio: float | None, verdict: Verdict) -> None:
    """A target on a ratio is met when our median over theirs is at most what was promised."""
    judged = judge(Target("bulk", OURS, 0.5, PEERS), figures(ours, theirs))
    assert judged.verdict is verdict
    assert judged.measured == (None if ratio is None else pytest.approx(ratio))


def test_an_absolute_figure_is_judged() -> None:
    """A target without a peer holds our median itself."""
    target = Target("bulk", OURS, 0.5)
    assert judge(target, figures([0.6], [])).verdict is Verdict.MISSED
    assert judge(target, figures([0.5], [])).verdict is Verdict.MET


def test_a_failure_keeps_its_first_reason() -> None:
    """What went wrong first is what is reported."""
    made = Figures()
    made.fail("bulk", "squid", "does not listen")
    made.fail("bulk", "squid", "failed before")
    assert made.failures == {("bulk", "squid"): "does not listen"}


def test_a_spread_has_both_ends() -> None:
    """The middle of an even count lies between the two in the middle."""
    found = spread([4.0, 1.0, 3.0, 2.0])
    assert (found.least, found.median, found.greatest, found.count) == (1.0, 2.5, 4.0, 4)


PERCENTILES = {
    "the 50th of an odd count is its middle": ([3, 1, 2], 50, 2),
    "the 99th of few is the greatest": ([1, 2, 3, 4], 99, 4),
    "the 99th of a hundred is the one before the greatest": (list(range(1, 101)), 99, 99),
    "of one it is that one": ([7], 1, 7),
}


@pytest.mark.parametrize(("values", "percent", "expected"), PERCENTILES.values(), ids=PERCENTILES)
def test_a_percentile_is_one_of_the_values(values: list[float], percent: int, expected: float) -> None:
    """A percentile is by nearest rank."""
    assert percentile(values, percent) == expected


def test_the_json_has_every_round() -> None:
    """Whoever doubts a median finds the values it was taken from."""
    (row, _) = as_json(figures([2.0, 1.0, 4.0], [1.0]))
    assert row["values"] == [2.0, 1.0, 4.0]
    assert (row["median"], row["min"], row["max"], row["rounds"]) == (2.0, 1.0, 4.0, 3)


NUMBERS = {0.04567: "0.0457", 1.5: "1.5", 99.94: "99.9", 1234.5: "1234", 0.0: "0"}


@pytest.mark.parametrize(("value", "shown"), NUMBERS.items())
def test_three_digits_count(value: float, shown: str) -> None:
    """A figure is shown as precisely as it was measured."""
    assert number(value) == shown


def test_a_missed_target_stands_out() -> None:
    """The table says `missed` in bold, and what was measured beside what was promised."""
    shown = target_table([judge(Target("bulk", OURS, 0.5, PEERS), figures([0.6], [1.0]))])
    assert shown.splitlines()[2] == "| bulk   | 0.5     | 0.6      | **missed** |"


def test_columns_line_up() -> None:
    """Every line of a table is as long as its head."""
    lines = table([["a", "bb"], ["ccc", "d"]]).splitlines()
    assert lines == ["| a   | bb |", "|-----|----|", "| ccc | d  |"]
