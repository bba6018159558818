"""Which kind of cell a sandbox gets: what is asked for, or the better one where this host is known to carry it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandhold.cell.machine import acceleration
from sandhold.errors import SbxError
from sandhold.linux.process import find_program
from sandhold.model.sandbox import Isolation
from sandhold.paths import Paths
from sandhold.session.isolation import choose, why

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """Folders with nothing in them."""
    return Paths(tmp_path / "state", tmp_path / "data", tmp_path / "config")


def test_nothing_but_a_proof_makes_auto_a_machine(paths: Paths) -> None:
    """`auto` is namespaces where no machine has been started with the processor's help, and says why."""
    assert choose(paths, "auto", "debian", needs_hardware=False) is Isolation.NAMESPACES
    assert why(paths, Isolation.NAMESPACES)


@pytest.mark.skipif(acceleration.hardware_obstacle() is None, reason="this host may run machines itself")
@pytest.mark.skipif(find_program("qemu-system-x86_64") is None, reason="QEMU (`qemu-system-x86`) is not installed")
def test_a_proof_counts_for_nothing_where_the_hardware_is_gone(paths: Paths) -> None:
    """What a trial found does not outlive what it was made with."""
    acceleration.record(paths.vm, acceleration.Proof(works=True, detail=""))
    assert choose(paths, "auto", "debian", needs_hardware=False) is Isolation.NAMESPACES


def test_the_hosts_own_programs_are_no_machine(paths: Paths) -> None:
    """There is no kernel in them to boot, and the refusal says what to use."""
    with pytest.raises(SbxError, match="cannot start") as refused:
        choose(paths, "microvm", "host", needs_hardware=False)
    assert refused.value.hint is not None


def test_namespaces_need_no_hardware(paths: Paths) -> None:
    """Asking for hardware without a machine is refused, not ignored."""
    with pytest.raises(SbxError, match="about machines"):
        choose(paths, "namespaces", "debian", needs_hardware=True)
