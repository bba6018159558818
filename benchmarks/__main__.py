"""The command `./bench`: installs what is missing, measures, writes the report, prints the targets."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import peers, proxies, report, sandbox, world
from benchmarks.figures import Figures
from benchmarks.processes import NotMeasuredError

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMES: Final = ("bulk", "connect", "loaded", "requests")


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
    began = time.monotonic()
    proxies.compare(made, figures, proxies.QUICK if given.quick else proxies.FULL, names)
    about: dict[str, object] = {
        "machine": report.machine(),
        "versions": {"sandhold": sandbox.version(), **peers.versions()},
        "minutes": report.number((time.monotonic() - began) / 60),
    }
    is_whole = names == NAMES and not given.quick
    folder = given.out or (world.CLONE / "benchmarks" / "results" if is_whole else world.WORK / "results")
    report.write(folder, figures, about)
    print(report.target_table(report.judged_targets(figures)))
    for (work, subject), reason in figures.failures.items():
        print(f"failed: {subject} at {work}: {reason}", file=sys.stderr)
    print(f"{folder / 'results.md'}: everything that was measured", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
