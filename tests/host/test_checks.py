"""`sbx doctor`'s looks at this host agree with what a cell gets here."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from sandhold.cell.checks import host_checks
from sandhold.cell.machine.acceleration import Verdict
from sandhold.cell.machine.qemu import Acceleration, Board

if TYPE_CHECKING:
    from tests.host.conftest import OpenCell, Person

MACHINES = Verdict(Acceleration.TCG, "nobody has tried", is_settled=False)
HELD = ("kernel", "seccomp filter", "user namespaces", "ip", "nft", "network in a namespace", "overlay file system")


def test_a_host_that_holds_a_cell_passes(cell: OpenCell) -> None:
    """Where a cell can be opened, all it is made of is found to be fine, and each line says what was found."""
    checks = {check.name: check for check in host_checks(MACHINES)}
    assert cell.run("true") == (0, "")
    assert {name: checks[name] for name in HELD if not checks[name].is_ok} == {}
    assert all(check.found for check in checks.values())
    assert all(check.fix is None for check in checks.values() if check.is_ok)


def test_who_made_a_connection_is_no_need(person: Person) -> None:
    """A host whose kernel cannot tell is said to lack it, and holds cells all the same."""
    (check,) = [check for check in host_checks(MACHINES) if check.name == "users of connections"]
    with closing(person.start()) as cell:
        told = cell.ask(do="owners", argv=["/usr/bin/true"])
    assert (check.is_ok, check.is_needed) == (told["status"] is not None, False)


VERDICTS: dict[str, tuple[Verdict, bool, str, str | None]] = {
    "nothing was tried": (MACHINES, False, "emulated", "sbx template build --microvm"),
    "the trial failed": (Verdict(Acceleration.TCG, "it hung", is_settled=True), False, "it hung", None),
    "the device is closed": (
        Verdict(Acceleration.TCG, "`/dev/kvm` is closed to this user", is_settled=True),
        False,
        "closed",
        "sudo usermod --append --groups kvm $USER",
    ),
    "one started": (
        Verdict(Acceleration.KVM, "one started", is_settled=True),
        True,
        "processor itself: one",
        None,
    ),
    "one started of the other kind": (
        Verdict(Acceleration.KVM, "one started", is_settled=True, board=Board.Q35),
        True,
        "as `q35`",
        None,
    ),
}


@pytest.mark.parametrize(("verdict", "is_ok", "words", "fix"), VERDICTS.values(), ids=VERDICTS)
def test_how_machines_run_is_said_as_it_was_found(verdict: Verdict, is_ok: bool, words: str, fix: str | None) -> None:  # noqa: FBT001
    """The line says what a trial found and what to type where one may change it; no sandbox needs it."""
    (check,) = [check for check in host_checks(verdict) if check.name == "virtual machines"]
    assert (check.is_ok, check.fix, check.is_needed) == (is_ok, fix, False)
    assert words in check.found
