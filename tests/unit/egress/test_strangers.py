"""Which addresses are known to be a stranger's, and for how long."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from sandhold.egress import strangers
from sandhold.egress.answers import KEPT_S
from sandhold.egress.strangers import Strangers

if TYPE_CHECKING:
    import pytest

    from sandhold.egress.answers import Address

FIRST, SECOND, THIRD = (ip_address(f"93.184.216.{number}") for number in (1, 2, 3))


class Kernel:
    """Knows which addresses are its machine's; `asked` are those it was asked about."""

    def __init__(self) -> None:
        self.own: set[Address] = set()
        self.asked: list[Address] = []
        self.now = 0.0

    def is_own(self, address: Address) -> bool:
        """As `upstream.is_own_address`."""
        self.asked.append(address)
        return address in self.own

    def clock(self) -> float:
        """Seconds that the test moves on."""
        return self.now


def test_an_address_of_ones_own_is_never_a_strangers() -> None:
    """An address that the kernel calls its own is one each time, and one that it takes becomes one within `KEPT_S`."""
    kernel = Kernel()
    kernel.own.add(FIRST)
    known = Strangers(kernel.clock, kernel.is_own)
    assert known.is_own(FIRST)
    assert known.is_own(FIRST)
    assert not known.is_own(SECOND)
    kernel.own.add(SECOND)
    kernel.now = KEPT_S
    assert known.is_own(SECOND)
    assert kernel.asked == [FIRST, FIRST, SECOND, SECOND]


def test_a_stranger_is_asked_about_once() -> None:
    """Within `KEPT_S` the kernel is asked about each address once."""
    kernel = Kernel()
    known = Strangers(kernel.clock, kernel.is_own)
    for _ in range(3):
        assert not known.is_own(FIRST)
        assert not known.is_own(SECOND)
    assert kernel.asked == [FIRST, SECOND]


def test_strangers_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """When there is no room for another address, all are asked about anew."""
    monkeypatch.setattr(strangers, "STRANGERS_MAX", 2)
    kernel = Kernel()
    known = Strangers(kernel.clock, kernel.is_own)
    for address in (FIRST, SECOND, THIRD, THIRD, FIRST):
        assert not known.is_own(address)
    assert kernel.asked == [FIRST, SECOND, THIRD, FIRST]
