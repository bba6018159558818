"""The command `./bench`: installs what is missing, measures, writes the report, prints the targets."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import decisions, files, inside, peers, proxies, report, sandbox, sessions, starts, trail, world
from benchmarks.figures import Figures
from benchmarks.processes import NotMeasuredError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PROXY_NAMES: Final = ("bulk", "connect", "loaded", "requests")
INSIDE_NAMES: Final = ("refusals", "lookups")
NAMES: Final = (*PROXY_NAMES, *INSIDE_NAMES, "starts", "fleet", "memory", "tunnels", "decisions", "trail", "files")
DRAW_TIMEOUT_S: Final = 120.0  # a few pictures, and the first start of matplotlib
SIZES: Final = (10, 1000, 100_000, 1_000_000)


def main(arguments: Sequence[str]) -> int:
    """Run the works that were named, or all."""
    parser = argparse.ArgumentParser(prog="./bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure: {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="one small round of everything, to see that it works")
    parser.add_argument("--out", type=Path, help="folder for the report; the committed one for a whole, full run")
    given = parser.parse_args(arguments)
    unknown = set(given.names) - set(NAMES)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    names = tuple(given.names) or NAMES
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _frame: sys.exit(128 + got))  # everything that was started is ended
    try:
        peers.install()
        world.enter(list(arguments))
        with world.built() as made:
            return _measure(made, given, names)
    except NotMeasuredError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _measure(made: world.World, given: argparse.Namespace, names: tuple[str, ...]) -> int:
    figures = Figures()
    is_whole = names == NAMES and not given.quick
    folder = given.out or (world.CLONE / "benchmarks" / "results" if is_whole else world.WORK / "results")
    began = time.monotonic()
    for name, work in _works(made, figures, names, is_quick=given.quick):
        _attempt(figures, name, work)
        print(f"{name}: done after {time.monotonic() - began:.0f} s", file=sys.stderr)
        report.write(folder, figures, _about(began))  # what was measured stays when the rest is interrupted
    _draw(folder)
    print(report.target_table(report.judged_targets(figures)))
    for (work_name, subject), reason in figures.failures.items():
        print(f"failed: {subject} at {work_name}: {reason}", file=sys.stderr)
    print(f"{folder / 'results.md'}: everything that was measured", file=sys.stderr)
    return 0


def _about(began: float) -> dict[str, object]:
    return {
        "machine": report.machine(),
        "versions": {"sandhold": sandbox.version(), **peers.versions()},
        "minutes": report.number((time.monotonic() - began) / 60),
    }


def _draw(folder: Path) -> None:
    python = world.WORK / "venv" / "bin" / "python"
    argv = [str(python), str(world.CLONE / "benchmarks" / "plots.py"), str(folder / "results.json"), str(folder)]
    try:
        subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=DRAW_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"failed: the plots: {error}", file=sys.stderr)


def _works(
    made: world.World, figures: Figures, names: tuple[str, ...], *, is_quick: bool
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield what was asked for, in order: each a name to tell about and what is done."""
    size = proxies.QUICK if is_quick else proxies.FULL
    count = size.rounds
    fewer = min(count, 3)
    works: dict[str, Callable[[], None]] = {
        "starts": lambda: starts.measure(made, figures, count_of_rounds=2 * count, many=50 if is_quick else 1000),
        "fleet": lambda: starts.measure_fleet(made, figures, count_of_rounds=fewer, count=4 if is_quick else 20),
        "memory": lambda: sessions.measure(made, figures, count_of_rounds=fewer, tunnels=1000),
        "tunnels": lambda: sessions.measure_many(made, figures, tunnels=900 if is_quick else 10_000),
        "decisions": lambda: decisions.measure(
            made, figures, count_of_rounds=count, sizes=SIZES[:2] if is_quick else SIZES
        ),
        "trail": lambda: trail.measure(made, figures, count_of_rounds=count, long=9000 if is_quick else 1_000_000),
        "files": lambda: files.measure(made, figures, count_of_rounds=count, count=1000 if is_quick else 50_000),
    }
    if set(names) & set(PROXY_NAMES):
        yield "proxies", lambda: proxies.compare(made, figures, size, names)
    if set(names) & set(INSIDE_NAMES):
        yield "inside", lambda: inside.measure(made, figures, size, names)
    for name in names:
        if name in works:
            yield name, works[name]


def _attempt(figures: Figures, name: str, work: Callable[[], None]) -> None:
    """Do a work; when even its setting cannot be made, that is reported, and the others go on."""
    try:
        work()
    except (NotMeasuredError, OSError, subprocess.SubprocessError) as error:
        figures.fail(name, "sandhold", str(error))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
