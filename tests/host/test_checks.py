"""`sbx doctor`'s looks at this host agree with what a cell gets here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandhold.cell.checks import host_checks

if TYPE_CHECKING:
    from tests.host.conftest import OpenCell

HELD = ("kernel", "seccomp filter", "user namespaces", "ip", "nft", "network in a namespace", "overlay file system")


def test_a_host_that_holds_a_cell_passes(cell: OpenCell) -> None:
    """Where a cell can be opened, all it is made of is found to be fine, and each line says what was found."""
    checks = {check.name: check for check in host_checks()}
    assert cell.run("true") == (0, "")
    assert {name: checks[name] for name in HELD if not checks[name].is_ok} == {}
    assert all(check.found for check in checks.values())
    assert all(check.fix is None for check in checks.values() if check.is_ok)
