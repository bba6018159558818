"""What the end of a machine says of the next one."""

from __future__ import annotations

import pytest

from sandhold.cell.machine.outer import end_of_machine
from sandhold.cell.machine.qemu import RefusedError
from sandhold.cell.spec import CellDied, CellEvent, CommandId, Exited

NO_SUCH = "qemu-system-x86_64: unsupported machine type 'microvm'"
NO_MEMORY = "qemu-system-x86_64: cannot set up guest memory 'ram': Cannot allocate memory"

ENDS: dict[str, tuple[CellEvent, str, bool]] = {
    "QEMU has no such machine": (Exited(CommandId(1), 1, None), NO_SUCH, True),
    "QEMU says nothing, and gives up": (Exited(CommandId(1), 1, None), "it ended without a word", True),
    "the host's memory is used up": (Exited(CommandId(1), 1, None), NO_MEMORY, False),
    "the host's memory was used up, and the kernel chose QEMU": (Exited(CommandId(1), 137, None), NO_SUCH, False),
    "the guest switched itself off": (Exited(CommandId(1), 0, None), "reboot: machine restart", False),
    "QEMU could not be started": (Exited(CommandId(1), 126, "Permission denied"), "", False),
    "the cell ended": (CellDied("its process 1 ended"), NO_SUCH, False),
}


@pytest.mark.parametrize(("event", "words", "lasts"), ENDS.values(), ids=ENDS)
def test_only_a_refusal_of_qemus_own_lasts(event: CellEvent, words: str, lasts: bool) -> None:  # noqa: FBT001
    """What another start would meet again is told from what the host may be rid of by then."""
    error = end_of_machine([event], words)
    assert isinstance(error, RefusedError) is lasts
    assert words in str(error)
