"""Draws the results; run by the benchmark's own environment, the only one that has matplotlib.

usage: python plots.py RESULTS.JSON FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl  # type: ignore[import-not-found]

mpl.use("Agg")

from matplotlib import pyplot as plt

OURS: Final = "#c4441c"
OURS_LIGHT: Final = "#e3a48e"
PEERS: Final = "#8a8f98"
OURS_BEGINS: Final = ("sandhold", "sbx")

PANELS: Final = (
    ("bulk-1", "cpu_s_per_gb", "Bulk, 1 tunnel\nCPU s/GB"),
    ("bulk-64", "cpu_s_per_gb", "Bulk, 64 tunnels\nCPU s/GB"),
    ("connect", "cpu_us_at_once", "Connect, request, close\nCPU µs, 16 at once"),
    ("loaded", "p50_us", "A new connection beside\n64 bulk tunnels, p50 µs"),
)

Rows = list[dict[str, Any]]


def main(results: Path, folder: Path) -> None:
    """Draw every plot that there are figures for."""
    rows: Rows = json.loads(results.read_text())["figures"]
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    draw_panels(rows, PANELS, folder / "proxies.png")
    draw_panels(rows, (("starts", "wall_ms", "Whole commands, ms"),), folder / "starts.png")
    draw_panels(
        rows,
        (("memory", "idle_mb", "Idle, MB (PSS)"), ("memory", "per_1000_mb", "1,000 tunnels more, MB")),
        folder / "memory.png",
    )
    draw_growth(rows, folder / "decisions.png")


def draw_panels(rows: Rows, panels: tuple[tuple[str, str, str], ...], path: Path) -> None:
    """Draw one panel for each figure, less is better, with the spread over the rounds as a line."""
    drawn = [(title, picked(rows, work, metric)) for work, metric, title in panels]
    drawn = [(title, found) for title, found in drawn if found]
    if not drawn:
        return
    height = 0.8 + 0.3 * max(len(found) for _, found in drawn)
    figure, axes = plt.subplots(1, len(drawn), figsize=(max(6.0, 3.6 * len(drawn)), height), squeeze=False)
    for axis, (title, found) in zip(axes[0], drawn, strict=True):
        found.sort(key=lambda row: -row["median"])
        medians = [row["median"] for row in found]
        spreads = [
            [row["median"] - row["min"] for row in found],
            [row["max"] - row["median"] for row in found],
        ]
        names = [row["subject"] for row in found]
        axis.errorbar(medians, names, xerr=spreads, fmt="none", ecolor="#444444", elinewidth=1)
        axis.scatter(medians, names, color=[colour(name) for name in names], zorder=3)
        for row in found:
            axis.annotate(number(row["median"]), (row["median"], row["subject"]), (0, 5), textcoords="offset points")
        axis.set_title(title, loc="left")
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter("")
        axis.margins(x=0.15, y=0.08)
        axis.grid(axis="x", color="#dddddd")
        for label in axis.get_yticklabels():
            if label.get_text().startswith(OURS_BEGINS):
                label.set_fontweight("bold")
    finish(figure, path)


def draw_growth(rows: Rows, path: Path) -> None:
    """Draw what a decision costs as rules grow."""
    if not picked(rows, "decisions", "hit_us"):
        return
    figure, axis = plt.subplots(figsize=(5, 3))
    for metric, name, shade in (("hit_us", "a rule matches", OURS), ("miss_us", "none matches", OURS_LIGHT)):
        found = picked(rows, "decisions", metric)
        counts = [int(row["subject"].split()[0]) for row in found]
        axis.plot(counts, [row["median"] for row in found], "o-", color=shade, label=name)
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("rules")
    axis.set_title("One decision, µs of processor", loc="left")
    axis.legend(frameon=False)
    finish(figure, path)


def picked(rows: Rows, work: str, metric: str) -> Rows:
    """Return the figures of one metric that are not zero: what has no processes to count costs nothing."""
    return [row for row in rows if row["work"] == work and row["metric"] == metric and row["median"] > 0]


def number(value: float) -> str:
    """Return a figure with three digits that count, as the report's tables show it."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def colour(name: str) -> str:
    """Ours stand out."""
    return OURS if name.startswith(OURS_BEGINS) else PEERS


def finish(figure: Any, path: Path) -> None:
    """Write the picture."""
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
