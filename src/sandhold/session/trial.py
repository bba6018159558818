"""Whether this host's processor runs machines itself: found out by starting one, once, under a time limit.

Rules:

1. The machine of a trial is nobody's. It has started when its agent says so; that a device opens proves nothing.
2. What the trial found is kept with all that it depends on, and no trial is made twice.
3. The least machine is tried first, then the one that every QEMU can be.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sandhold.cell.boot.boot_files import find_boot_files
from sandhold.cell.images.templates import find_template, list_templates
from sandhold.cell.machine import acceleration
from sandhold.cell.machine.acceleration import TRIAL_S_MAX, Proof
from sandhold.cell.machine.booted import try_machine
from sandhold.cell.machine.parts import first_shape
from sandhold.cell.machine.qemu import Acceleration, Board
from sandhold.errors import SbxError
from sandhold.model.sandbox import Limits

if TYPE_CHECKING:
    from pathlib import Path

    from sandhold.cell.boot.boot_files import BootFiles
    from sandhold.cell.machine.acceleration import Verdict
    from sandhold.paths import Paths

_LIMITS: Final = Limits(cpus=1, memory=512 << 20, pids=0)  # enough for any guest to say that it waits


def settle(paths: Paths) -> Verdict:
    """Return how machines run here. When only a trial can tell it is made, if there is something to boot."""
    verdict = acceleration.look(paths.vm)
    if verdict.is_settled:
        return verdict
    boot = _something_to_boot(paths)
    if boot is None:
        return verdict
    with contextlib.suppress(TimeoutError):  # another command has one under way: this one is told the next time
        acceleration.record(paths.vm, attempt(paths.vm, boot, Acceleration.KVM, TRIAL_S_MAX))
    return acceleration.look(paths.vm)


def attempt(vm: Path, boot: BootFiles, how: Acceleration, boot_s_max: float) -> Proof:
    """Return what comes of starting a machine so, by rules 1 and 3; each has `boot_s_max` for it.

    Raises:
        TimeoutError: when no machine could be started, because another command would not let us.
    """
    failures = []
    for board in Board:
        try:
            try_machine(vm, boot, replace(first_shape(_LIMITS, how), board=board), boot_s_max)
        except TimeoutError:
            raise
        except (OSError, SbxError) as error:
            failures.append(f"{board.name.lower()}: {error}"[:500])
        else:
            return Proof(works=True, detail="", board=board)
    return Proof(works=False, detail="; ".join(failures))


def _something_to_boot(paths: Paths) -> BootFiles | None:
    """Return what some template's machines boot from: any will do."""
    for description in list_templates(paths.templates):
        try:
            found = find_boot_files(paths.vm, find_template(paths.templates, description.name))
        except SbxError:
            continue  # `host`, or one whose base is gone: nothing boots from that
        if found is not None:
            return found
    return None
