"""An internet, an egress in front of it, and the authorities both sides are known by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from sandhold.egress.certificates import Authority
from tests.simulators import EgressSimulation, FarEnd, Internet

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from sandhold.policy.index import PolicyIndex


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The installation's authority: refusals are signed by it."""
    return Authority.load_or_create(tmp_path_factory.mktemp("ours") / "authority")


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The internet's authority: far ends have certificates of it."""
    return Authority.load_or_create(tmp_path_factory.mktemp("worlds") / "authority")


@pytest.fixture
def internet() -> Internet:
    """An empty internet."""
    return Internet()


class MakeFarEnd(Protocol):
    """Makes a far end that is closed after the test."""

    def __call__(self, talk: Callable[[FarEnd, socket.socket], None]) -> FarEnd:
        """Start it."""


@pytest.fixture
def far_end() -> Iterator[MakeFarEnd]:
    """Make far ends."""
    made: list[FarEnd] = []

    def make(talk: Callable[[FarEnd, socket.socket], None]) -> FarEnd:
        made.append(FarEnd(talk))
        return made[-1]

    yield make
    for each in made:
        each.close()


class StartEgress(Protocol):
    """Starts egress under a policy; it is ended after the test."""

    def __call__(self, index: PolicyIndex, **changes: object) -> EgressSimulation:
        """Start it."""


@pytest.fixture
def egress(internet: Internet, ours: Authority, far_end: MakeFarEnd) -> Iterator[StartEgress]:
    """Start egress in front of the test's internet; it ends before the far ends do."""
    assert far_end
    running: list[EgressSimulation] = []

    def start(index: PolicyIndex, **changes: object) -> EgressSimulation:
        simulation = EgressSimulation(index, ours, internet, **changes)
        running.append(simulation.__enter__())
        return running[-1]

    yield start
    for each in running:
        each.__exit__()
