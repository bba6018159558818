"""Fuzzes parsers, one after the other, and prints how many executions each got: `scripts/fuzz`."""

from __future__ import annotations

import argparse
import random
import sys
from typing import Final

from tests.fuzz.decision_target import DECISIONS
from tests.fuzz.engine import BrokenError, fuzz
from tests.fuzz.record_targets import RECORDS
from tests.fuzz.text_targets import TEXT
from tests.fuzz.wire_targets import WIRE

TARGETS: Final = {target.name: target for target in (*WIRE, *TEXT, *RECORDS, *DECISIONS)}
MINUTE_S: Final = 60.0


def main() -> int:
    """Fuzz what the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of: {', '.join(TARGETS)} (all of them)")
    parser.add_argument("--executions", type=int, default=10_000_000, help="for each")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="at most, for each")
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    if unknown := set(given.targets) - set(TARGETS):
        parser.error(f"no target is called {', '.join(sorted(unknown))}")
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 32)
    _say(f"seed {seed}")
    status = 0
    for name in given.targets or TARGETS:
        try:
            _say(f"{name}: {fuzz(TARGETS[name], seed, given.executions, given.minutes * MINUTE_S)}")
        except BrokenError as error:
            _say(f"FAILED: {error}")
            status = 1
    return status


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
