"""Every parser keeps its rules whatever it is given; `scripts/fuzz` does the same for hours."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from sandhold.model.destination import MalformedError, parse_host
from tests.fuzz.engine import TRACED_ONE_IN, BrokenError, Target, fuzz, mutate
from tests.fuzz.run import TARGETS

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_no_input_breaks_a_rule(target: Target) -> None:
    """Thousands of changed inputs meet no crash, no hang and no broken rule of the parser."""
    tally = fuzz(target, seed=1, executions=target.brief)
    assert tally.executions == target.brief
    assert len(tally.kinds) > 2, "the corpus never gets past the first check"


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_ten_minutes_break_no_rule(target: Target) -> None:
    """Neither do millions."""
    assert fuzz(target, seed=2, executions=10_000_000, seconds=600).executions > target.brief


def test_a_broken_rule_is_found_and_shown() -> None:
    """The fuzzer finds a rule that breaks on one word behind another, and says on which input."""

    def check(data: bytes) -> str:
        assert b"GET" not in data or b"\0" not in data
        return "with GET" if b"GET" in data else "without"

    with pytest.raises(BrokenError, match="fromhex"):
        fuzz(Target("broken", (b"start",), (b"GET",), lambda _: check), seed=1, executions=100_000)


HANGING = """
from tests.fuzz import engine
engine.HANG_S = 0.2

def check(data):
    while data != b"start":
        pass
    return "an answer"

engine.fuzz(engine.Target("hanging", (b"start",), (), lambda _: check), seed=1, executions=10)
"""


def test_a_parser_that_hangs_is_shown() -> None:
    """A parser that never answers ends the run, with the line where it is."""
    done = subprocess.run(
        [sys.executable, "-c", HANGING], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGPROF
    assert "in check" in done.stderr


def test_a_step_that_is_new_is_kept() -> None:
    """What takes a line of ours that nothing took before is learnt from, although its answer is like any other's."""

    def check(data: bytes) -> str:
        with suppress(MalformedError):
            parse_host(data)
        return "one answer for all"

    target = Target("steps", (b"a.test", b"b.test"), (b"::1", b"127.0.0.1"), lambda _: check)
    assert fuzz(target, seed=1, executions=10).starts == 2, "too short to trace anything"
    tally = fuzz(target, seed=1, executions=4000)
    assert tally.traced == 4000 // TRACED_ONE_IN
    assert 5 < tally.starts < tally.traced


def test_the_same_seed_gives_the_same_inputs() -> None:
    """A run can be repeated."""
    first, second = ([mutate(random.Random(7), [b"abc"], [b"x"]) for _ in range(2)] for _ in range(2))
    assert first == second
