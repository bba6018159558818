"""The report: every figure with its spread, and every target with its verdict, as Markdown and as JSON."""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Key, Verdict, as_json, judge, spread
from benchmarks.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.figures import Figures, Judged

TITLES: Final[Mapping[str, str]] = {
    "bulk-1": "Bulk, 1 tunnel",
    "bulk-8": "Bulk, 8 tunnels",
    "bulk-64": "Bulk, 64 tunnels",
    "connect": "Connect, request, close",
    "loaded": "A new connection beside 64 bulk tunnels",
    "requests": "HTTP requests over kept connections",
    "refusals": "HTTPS that is denied: the answer over TLS",
    "lookups": "Names answered inside",
    "memory": "Memory, and what 1,000 idle tunnels add",
    "tunnels": "Many idle tunnels at once",
    "starts": "Whole commands, from start to end",
    "fleet": "Many sandboxes at once",
    "decisions": "Decisions as rules grow",
    "appends": "Durable records",
    "log": "`sbx policy log`",
    "files-unpack": "Files: unpack an archive",
    "files-status": "Files: `git status` on a large repository",
    "files-install": "Files: `pip install`",
}

HEADINGS: Final[Mapping[str, str]] = {
    "cpu_s_per_gb": "CPU s/GB",
    "gb_per_s": "GB/s",
    "cpu_us": "CPU µs",
    "cpu_us_at_once": "CPU µs, 16 at once",
    "p50_us": "p50 µs",
    "p99_us": "p99 µs",
    "per_second": "per second",
    "cpu_ms": "CPU ms",
    "cpu_ms_new_host": "CPU ms, new host",
    "p50_ms": "p50 ms",
    "p50_ms_new_host": "p50 ms, new host",
    "idle_mb": "idle MB (PSS)",
    "alone_mb": "idle MB, alone",
    "per_1000_mb": "MB for 1,000 tunnels",
    "held_mb": "with all open MB (PSS)",
    "open_s": "all open after s",
    "wall_ms": "ms",
    "wall_us": "µs",
    "wall_s": "s",
    "cpu_s": "CPU s",
    "start_s": "all started s",
    "stop_s": "all stopped s",
    "pss_mb": "MB each (PSS)",
    "hit_us": "a rule matches µs",
    "miss_us": "none matches µs",
    "load_s": "policy read CPU s",
    "memory_mb": "policy MB",
    "seen_after_ms": "new record shown after ms",
}


def machine() -> dict[str, str]:
    """Return what this was measured on."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    release = next((line.partition("=")[2] for line in _lines("/etc/os-release") if line.startswith("PRETTY_NAME")), "")
    return {
        "processor": f"{os.cpu_count()} x {model}",
        "memory": f"{int(memory) // 1024**2} GiB",
        "kernel": platform.release(),
        "system": release.strip('"'),
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def write(folder: Path, figures: Figures, about: Mapping[str, object]) -> None:
    """Write `results.json` and `results.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    judged = judged_targets(figures)
    whole = {
        **about,
        "targets": [
            {
                "what": each.target.what,
                "at_most": each.target.at_most,
                "measured": each.measured,
                "unit": each.target.unit,
                "verdict": each.verdict.value,
            }
            for each in judged
        ],
        "figures": as_json(figures),
        "failures": [
            {"work": work, "subject": subject, "reason": reason} for (work, subject), reason in figures.failures.items()
        ],
    }
    (folder / "results.json").write_text(json.dumps(whole, indent=1) + "\n")
    (folder / "results.md").write_text(markdown(figures, judged, about))


def judged_targets(figures: Figures) -> list[Judged]:
    """Return the targets of the works that were tried, held against what was measured."""
    tried = {key.work for key in figures.values} | {work for work, _ in figures.failures}
    return [judge(target, figures) for target in TARGETS if target.figure.work in tried]


def markdown(figures: Figures, judged: list[Judged], about: Mapping[str, object]) -> str:
    """Return the whole report."""
    parts = ["# Results", "", "Written by `./bench`; medians, with the least and the greatest in brackets.", ""]
    for title, value in about.items():
        shown = ", ".join(f"{name} {text}" for name, text in value.items()) if isinstance(value, dict) else value
        parts.append(f"- {title}: {shown}")
    parts += ["", "## Targets", "", target_table(judged)]
    for work in dict.fromkeys([*(key.work for key in figures.values), *(work for work, _ in figures.failures)]):
        parts += ["", f"## {TITLES.get(work, work)}", "", work_table(figures, work)]
        parts += [
            f"\n{subject}: failed, {reason}" for (failed, subject), reason in figures.failures.items() if failed == work
        ]
    return "\n".join(parts) + "\n"


def target_table(judged: list[Judged]) -> str:
    """Return the targets as a table."""
    rows = [["target", "at most", "measured", ""]]
    for each in judged:
        unit = f" {each.target.unit}" if each.target.unit else ""
        measured = "-" if each.measured is None else f"{number(each.measured)}{unit}"
        word = each.verdict.value if each.verdict is not Verdict.MISSED else "**missed**"
        rows.append([each.target.what, f"{number(each.target.at_most)}{unit}", measured, word])
    return table(rows)


def work_table(figures: Figures, work: str) -> str:
    """Return one work's figures, a subject a line."""
    keys = [key for key in figures.values if key.work == work]
    metrics = list(dict.fromkeys(key.metric for key in keys))
    rows = [["", *(HEADINGS.get(metric, metric) for metric in metrics)]]
    for subject in dict.fromkeys(key.subject for key in keys):
        cells = []
        for metric in metrics:
            values = figures.values.get(Key(work, subject, metric))
            cells.append(_cell(values) if values else "-")
        rows.append([subject, *cells])
    return table(rows)


def _cell(values: list[float]) -> str:
    found = spread(values)
    if found.count == 1:
        return number(found.median)
    return f"{number(found.median)} ({number(found.least)} .. {number(found.greatest)})"


def number(value: float) -> str:
    """Return a figure with three digits that count."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def table(rows: list[list[str]]) -> str:
    """Return rows as a Markdown table, the first as its head, columns aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
