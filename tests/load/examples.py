"""Random examples by the thousand, through the real egress: `scripts/examples policies N`, or `histories N`.

A policy is tried with a handful of destinations, and enforcement, DNS and the record have to agree with the slow
reference (`tests/flow/test_differential.py`); a history is up to twenty steps of one sandbox's network
(`tests/flow/test_random_histories.py`).
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from sandhold.egress.certificates import Authority
from tests.flow import test_differential, test_random_histories

if TYPE_CHECKING:
    from sandhold.model.destination import Destination
    from sandhold.model.rule import Policy

BATCH: Final = 50  # examples between two lines of progress, each batch with a seed of its own
STEPS: Final = 20
Run = Callable[[int, settings], int]


def run(kind: str, count: int, first: int, *, seconds: float = float("inf")) -> int:
    """Run at least so many examples of a kind, or for so many seconds; returns how many those were.

    Raises:
        BaseException: what the first example that fails raises, with its example.
    """
    done = 0
    begun = time.monotonic()
    while done < count and time.monotonic() - begun < seconds:
        size = min(BATCH, count - done)
        done += KINDS[kind](first + done, _settings(size))
        _say(f"{done} {kind}")
    return done


def _settings(size: int) -> settings:
    return settings(
        max_examples=size,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def _policies(number: int, wanted: settings) -> int:
    tried = 0
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority.load_or_create(Path(folder) / "authority")

        @seed(number)
        @given(*test_differential.EXAMPLES)
        @wanted
        def try_one(policy: Policy, targets: list[Destination], resolved: list[test_differential.Address]) -> None:
            nonlocal tried
            tried += 1
            test_differential.assert_agreement(authority, policy, targets, resolved)

        try_one()
    return tried


def _histories(number: int, wanted: settings) -> int:
    lived = 0

    @seed(number)
    class Counted(test_random_histories.History):
        def __init__(self) -> None:
            nonlocal lived
            lived += 1
            super().__init__()

    run_state_machine_as_test(Counted, settings=wanted)
    return lived


KINDS: Final[dict[str, Run]] = {"policies": _policies, "histories": _histories}


def main() -> int:
    """Run what the command line says; a failure ends it with the example."""
    parser = argparse.ArgumentParser(prog="scripts/examples", description="Try random examples through egress.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("count", type=int)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=None)
    given_ = parser.parse_args()
    first = given_.seed if given_.seed is not None else random.SystemRandom().randrange(1 << 32)
    _say(f"seed {first}")
    run(given_.kind, given_.count, first, seconds=given_.minutes * 60)
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
