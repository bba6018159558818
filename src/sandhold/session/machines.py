"""The cell of a sandbox that is a machine: started from a snapshot where one can be had, else booted.

Rules:

1. The first start of a kind of machine makes the snapshot that it starts from itself: the second start is quick, and
   the first takes a second more than a boot.
2. What goes wrong with a snapshot is nobody's error: the machine boots, and the next start makes the snapshot anew. A
   kind of machine that cannot be kept, or cannot be restored when it was kept just now, boots for a while: for a day
   where QEMU refused, for minutes after anything else, which may be over by then.
3. The least machine is had where it starts; where it does not, the one that every QEMU can be is had if that starts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sandhold.cell.boot.boot_files import find_boot_files
from sandhold.cell.images.templates import find_template
from sandhold.cell.machine import snapshots
from sandhold.cell.machine.booted import make_snapshot
from sandhold.cell.machine.microvm import MicrovmCell, open_microvm
from sandhold.cell.machine.parts import first_shape, shape_of
from sandhold.cell.machine.qemu import Board, RefusedError
from sandhold.errors import EXIT_NOT_HELD, SbxError
from sandhold.linux.process import spawn_module
from sandhold.model.sandbox import Isolation
from sandhold.session.creation import limits
from sandhold.session.isolation import EMULATED, require_hardware
from sandhold.session.trial import settle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandhold.cell.boot.boot_files import BootFiles
    from sandhold.cell.machine.qemu import Shape
    from sandhold.cell.machine.snapshots import Snapshot
    from sandhold.cell.spec import CellSpec
    from sandhold.linux.process import Spawn
    from sandhold.model.sandbox import Sandbox
    from sandhold.paths import Paths

READY_S_MAX: Final = 30.0  # from a snapshot to the first command: half a second, or as long as a busy host takes


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of machine, and what its snapshot is called in the folder `vm`."""

    vm: Path
    boot: BootFiles
    shape: Shape
    name: str


def kind_of(vm: Path, boot: BootFiles, shape: Shape) -> Kind:
    """Return the kind of a machine of this shape."""
    return Kind(vm, boot, shape, snapshots.name_of(boot, shape))


def open_machine(
    paths: Paths, sandbox: Sandbox, spec: CellSpec, spawn: Spawn, log: Callable[[str], None]
) -> MicrovmCell:
    """Make the cell of a sandbox that is a machine; `spawn` starts its helpers, `log` is told what went wrong.

    Raises:
        OSError: when a step fails.
        SbxError: when what a machine starts from is not there, or the hardware that this one needs.
    """
    boot = find_boot_files(paths.vm, spec.template)
    if boot is None:
        raise SbxError(
            "what this machine starts from is not there",
            hint=f"`sbx run {sandbox.name}` makes it again",
            status=EXIT_NOT_HELD,
        )
    verdict = settle(paths)
    if sandbox.needs_hardware:
        require_hardware(verdict, f"`sbx rm {sandbox.name}`, and create it without `--require-kvm`")
    shape = replace(shape_of(spec, verdict.acceleration), board=verdict.board)
    cell = open_quickly(kind_of(paths.vm, boot, shape), spec, spawn, log)
    if not verdict.is_hardware:
        cell.notes = (f"this machine is {EMULATED}: {verdict.reason}", *cell.notes)
    return cell


def prepare_snapshot(paths: Paths, template: str, show: Callable[[str], None]) -> str | None:
    """Make the snapshot that a sandbox of this template starts from when it is given no limits and one folder, where
    there is none; returns why there is none afterwards.

    Raises:
        SbxError: when there is no such template.
    """
    boot = find_boot_files(paths.vm, find_template(paths.templates, template))
    if boot is None:
        return "what it boots from is gone again"
    verdict = settle(paths)
    shape = first_shape(limits(kind=Isolation.MICROVM), verdict.acceleration)
    kind = kind_of(paths.vm, boot, replace(shape, board=verdict.board))
    if snapshots.find(kind.vm, kind.name) is None:
        show(f"microvm {template}: starting a machine once, to start others from")
    try:
        found, _ = _find_or_make(kind)
    except (OSError, SbxError) as error:
        return str(error)
    return None if found is not None else "another command is at it, or it failed lately"


def open_quickly(kind: Kind, spec: CellSpec, spawn: Spawn, log: Callable[[str], None]) -> MicrovmCell:
    """Make a machine of this kind by rules 1 and 2.

    Raises:
        OSError: when a step fails that has nothing to do with snapshots.
    """
    kind, snapshot, is_new = _choose(kind, log)
    if snapshot is None:
        return open_microvm(spec, kind.boot, kind.shape, spawn)
    try:
        return open_microvm(spec, kind.boot, kind.shape, spawn, boot_s_max=READY_S_MAX, snapshot=snapshot)
    except OSError as error:
        log(f"this machine boots: its snapshot cannot be used: {error}")
    # What a session keeps ready for one cell's helpers is used up.
    cell = open_microvm(spec, kind.boot, kind.shape, spawn_module)
    snapshots.drop(kind.vm, kind.name)
    if is_new:
        snapshots.give_up(kind.vm, kind.name, "it was kept and could not be restored", is_lasting=False)
    return cell


def _choose(kind: Kind, log: Callable[[str], None]) -> tuple[Kind, Snapshot | None, bool]:
    """Return the kind that a machine is to be (rule 3), its snapshot if there is one, and whether that was made now."""
    fallback = kind_of(kind.vm, kind.boot, replace(kind.shape, board=Board.Q35))
    for each in (kind, fallback):
        try:
            snapshot, is_new = _find_or_make(each)
        except (OSError, SbxError) as error:
            log(f"no snapshot can be made of this kind of machine ({each.shape.board.name.lower()}): {error}")
            continue
        if snapshot is not None or not snapshots.has_failed(each.vm, each.name):
            return each, snapshot, is_new
    return kind, None, False


def _find_or_make(kind: Kind) -> tuple[Snapshot | None, bool]:
    """Return the snapshot of a kind, and whether it was made now; None where none can be had, or another start is
    making it."""
    if (found := snapshots.find(kind.vm, kind.name)) is not None:
        return found, False
    if snapshots.has_failed(kind.vm, kind.name):
        return None, False
    try:
        if not make_snapshot(kind.vm, kind.boot, kind.shape, kind.name):
            return None, False
    except (OSError, SbxError) as error:
        snapshots.give_up(kind.vm, kind.name, str(error), is_lasting=isinstance(error, RefusedError))
        raise
    return snapshots.find(kind.vm, kind.name), True
