"""Whether this host's processor runs machines itself, which only a machine that has started proves.

Rules:

1. `/dev/kvm` that opens proves nothing: the host may be a machine itself whose own host gives it no more than the name.
   Without a driver of the processor's behind it, there is no trial.
2. What a trial found is kept with all that it depended on: QEMU, the host's kernel and processor, what was booted.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from sandhold.cell.machine.qemu import PROGRAM, Acceleration, Board

DEVICE: Final = Path("/dev/kvm")
DRIVERS: Final = ("kvm_intel", "kvm_amd")
TRIAL_S_MAX: Final = 30.0  # a machine that the processor runs itself is ready in one; one that hangs never is
FAILURE_S: Final = 7 * 86400.0  # a week: a trial may have failed for what has passed, and costs a minute
PROOF: Final = "kvm.json"
UNTRIED: Final = "no machine has been tried with `/dev/kvm`; `sbx template build --microvm` does that"
PROOF_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Verdict:
    """How machines run here, and why not better. `is_settled` says that no trial can change it."""

    acceleration: Acceleration
    reason: str
    is_settled: bool
    board: Board = Board.MICROVM

    @property
    def is_hardware(self) -> bool:
        """Whether the processor runs machines itself."""
        return self.acceleration is Acceleration.KVM


@dataclass(frozen=True, slots=True)
class Proof:
    """What a trial found; `detail` is why it failed, `board` the kind of machine that started."""

    works: bool
    detail: str
    board: Board = Board.MICROVM


def look(folder: Path) -> Verdict:
    """Return what is known without a trial; `folder` is where proofs are kept."""
    obstacle = hardware_obstacle()
    if obstacle is not None:
        return Verdict(Acceleration.TCG, obstacle, is_settled=True)
    proof = read_proof(folder)
    if proof is None:
        return Verdict(
            Acceleration.TCG,
            UNTRIED,
            is_settled=False,
        )
    if proof.works:
        return Verdict(Acceleration.KVM, "a machine started with `/dev/kvm`", is_settled=True, board=proof.board)
    return Verdict(Acceleration.TCG, f"a trial with `/dev/kvm` failed: {proof.detail}", is_settled=True)


def hardware_obstacle(
    device: Path = DEVICE, modules: Path = Path("/sys/module"), program: Path = Path(PROGRAM)
) -> str | None:
    """Return why a trial would be in vain, None when it would not."""
    if not os.access(program, os.X_OK):
        return f"`{program.name}` is not installed (package `qemu-system-x86`)"
    if not device.exists():
        return f"no `{device}`: this host offers no hardware virtualisation"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"`{device}` is closed to this user"
    if not any((modules / driver).exists() for driver in DRIVERS):
        return f"`{device}` is there without a driver of the processor's behind it"
    return None


def record(folder: Path, proof: Proof) -> None:
    """Keep what a trial found."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = folder / f".{PROOF}.{os.getpid()}"
    new.write_text(json.dumps({"surroundings": surroundings(), **asdict(proof)}), "utf-8")
    new.replace(folder / PROOF)


def read_proof(folder: Path) -> Proof | None:
    """Return what a trial in these surroundings found; None when there was none, it cannot be read, or it
    failed long ago."""
    try:
        with (folder / PROOF).open("rb") as file:
            match json.loads(file.read(PROOF_BYTES_MAX)):
                case {"surroundings": str(where), "works": bool(works), "detail": str(detail), "board": str(board)} if (
                    where == surroundings()
                ):
                    age_s = time.time() - os.fstat(file.fileno()).st_mtime
                    return Proof(works, detail, Board(board)) if works or abs(age_s) < FAILURE_S else None
    except (OSError, ValueError):
        return None
    return None


def surroundings() -> str:
    """Return a name for all of this host that a machine depends on."""
    program = Path(PROGRAM).stat()
    model = next((line for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if "model name" in line), "")
    facts = (program.st_size, program.st_mtime_ns, os.uname().release, os.uname().version, model)
    return hashlib.sha256(repr(facts).encode()).hexdigest()
