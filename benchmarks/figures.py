"""The arithmetic of a report: medians, spreads, ratios, and whether a target is met. No input, no output."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True)
class Key:
    """What a figure is of: the work, who did it, what was counted."""

    work: str
    subject: str
    metric: str


@dataclass(frozen=True, slots=True)
class Spread:
    """The least, the middle and the greatest of several values of one figure."""

    least: float
    median: float
    greatest: float
    count: int


@dataclass(slots=True)
class Figures:
    """Everything that one run measured, and what failed, by `Key` and by work and subject."""

    values: dict[Key, list[float]] = field(default_factory=dict)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, work: str, subject: str, **metrics: float) -> None:
        """Add one round's figures."""
        for metric, value in metrics.items():
            self.values.setdefault(Key(work, subject, metric), []).append(value)

    def fail(self, work: str, subject: str, reason: str) -> None:
        """Say why a subject has no figures for a work; the first reason stays."""
        self.failures.setdefault((work, subject), reason)

    def median(self, work: str, subject: str, metric: str) -> float | None:
        """Return the median over the rounds; None when there is no figure."""
        values = self.values.get(Key(work, subject, metric))
        return statistics.median(values) if values else None


def spread(values: Iterable[float]) -> Spread:
    """Summarise at least one value."""
    known = sorted(values)
    return Spread(known[0], statistics.median(known), known[-1], len(known))


class Verdict(Enum):
    """How a target stands."""

    MET = "met"
    MISSED = "missed"
    UNKNOWN = "not measured"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure named in a target."""

    work: str
    subject: str
    metric: str


@dataclass(frozen=True, slots=True)
class Target:
    """What must hold: a figure, or its ratio to another one (`over`), is at most `at_most`."""

    what: str
    figure: Figure
    at_most: float
    over: Figure | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """A target with what was measured; `measured` is None when a figure is missing."""

    target: Target
    measured: float | None

    @property
    def verdict(self) -> Verdict:
        """Met, missed, or not measured."""
        if self.measured is None:
            return Verdict.UNKNOWN
        return Verdict.MET if self.measured <= self.target.at_most else Verdict.MISSED


def judge(target: Target, figures: Figures) -> Judged:
    """Hold a target against the medians."""
    ours = figures.median(target.figure.work, target.figure.subject, target.figure.metric)
    if target.over is None or ours is None:
        return Judged(target, ours)
    theirs = figures.median(target.over.work, target.over.subject, target.over.metric)
    return Judged(target, ours / theirs if theirs else None)


def percentile(values: Iterable[float], percent: int) -> float:
    """Return the value that `percent` of at least one value do not exceed (nearest rank)."""
    known = sorted(values)
    rank = -(-len(known) * percent // 100)  # rounded up
    return known[max(0, min(len(known), rank) - 1)]


def as_json(figures: Figures) -> list[Mapping[str, object]]:
    """Return the figures as plain values, in the order in which they were measured."""
    rows: list[Mapping[str, object]] = []
    for key, values in figures.values.items():
        found = spread(values)
        rows.append(
            {
                "work": key.work,
                "subject": key.subject,
                "metric": key.metric,
                "median": found.median,
                "min": found.least,
                "max": found.greatest,
                "rounds": found.count,
                "values": values,
            }
        )
    return rows
