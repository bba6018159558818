"""What this host's processor does for machines: what rules a trial out, and what a trial found."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sandhold.cell.machine import acceleration
from sandhold.cell.machine.qemu import PROGRAM, Board

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OBSTACLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no device": (lambda host: (host / "kvm").unlink(), "no `"),
    "no driver behind the device": (lambda host: (host / "modules" / "kvm_amd").rmdir(), "without a driver"),
    "no QEMU": (lambda host: (host / "qemu").unlink(), "not installed"),
}


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A folder that looks like a host with all that a trial needs."""
    (tmp_path / "kvm").touch()
    (tmp_path / "modules" / "kvm_amd").mkdir(parents=True)
    (tmp_path / "qemu").touch(mode=0o755)
    return tmp_path


def obstacle(host: Path) -> str | None:
    """Return what stands in the way of a trial on that host."""
    return acceleration.hardware_obstacle(host / "kvm", host / "modules", host / "qemu")


@pytest.mark.parametrize(("take_away", "words"), OBSTACLES.values(), ids=OBSTACLES)
def test_a_trial_in_vain_is_not_made(host: Path, take_away: Callable[[Path], object], words: str) -> None:
    """A device alone proves nothing: without its driver, or QEMU, the reason is said and nothing is started."""
    assert obstacle(host) is None
    take_away(host)
    found = obstacle(host)
    assert found is not None
    assert words in found


@pytest.mark.skipif(not os.access(PROGRAM, os.X_OK), reason="QEMU (`qemu-system-x86`) is not installed")
def test_what_a_trial_found_is_kept_for_these_surroundings(tmp_path: Path) -> None:
    """A proof holds for this QEMU, kernel and processor, one of a failure for a week, and a damaged proof is none."""
    acceleration.record(tmp_path, acceleration.Proof(works=False, detail="it hung"))
    proof = acceleration.read_proof(tmp_path)
    assert proof == acceleration.Proof(works=False, detail="it hung")
    acceleration.record(tmp_path, acceleration.Proof(works=True, detail="", board=Board.Q35))
    assert acceleration.read_proof(tmp_path) == acceleration.Proof(works=True, detail="", board=Board.Q35)
    os.utime(tmp_path / acceleration.PROOF, (1, 1))
    assert acceleration.read_proof(tmp_path) is not None
    acceleration.record(tmp_path, acceleration.Proof(works=False, detail="it hung"))
    os.utime(tmp_path / acceleration.PROOF, (1, 1))
    assert acceleration.read_proof(tmp_path) is None
    acceleration.record(tmp_path, acceleration.Proof(works=True, detail=""))
    (tmp_path / acceleration.PROOF).write_text("{")
    assert acceleration.read_proof(tmp_path) is None
    (tmp_path / acceleration.PROOF).write_text('{"surroundings": "others", "works": true, "detail": ""}')
    assert acceleration.read_proof(tmp_path) is None
