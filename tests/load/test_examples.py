"""The command that tries random examples for hours does so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.load.examples import KINDS, run
from tests.unit.policy import reference


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_examples(kind: str) -> None:
    """As many examples as are asked for are tried, and none breaks a rule."""
    assert run(kind, 3, first=5) >= 3


def test_an_example_that_fails_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that says something else than the reference ends the run."""
    for name in ("decide", "decide_address"):
        decide = getattr(reference, name)
        monkeypatch.setattr(reference, name, lambda *given, decide=decide: replace(decide(*given), generation=7))
    with pytest.raises(AssertionError):
        run("policies", 3, first=5)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_ten_minutes_of_examples(kind: str) -> None:
    """Neither do thousands."""
    assert run(kind, 1_000_000, first=7, seconds=600) > 100
