"""What processes would weigh if they were alone on the machine.

The proportional set size counts a page of a library by halves as soon as any other process has it mapped, and so tells
as much of the neighbours as of the process. Here each page frame that any of some processes has mapped counts once.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.processes import NotMeasuredError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_ENTRY_BYTES: Final = 8  # of /proc/PID/pagemap, by Documentation/admin-guide/mm/pagemap.rst: bit 63 says present,
_PRESENT: Final = 1 << 63
_FRAME: Final = (1 << 55) - 1  # bits 0 to 54 the frame
_KERNEL: Final = 1 << 63  # from here on addresses are the kernel's (vsyscall)
_RANGE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (?!---)", re.MULTILINE)
"""The lines of /proc/PID/maps, but for addresses that are only reserved, which may be terabytes (proc(5))."""


def alone_bytes(pids: Iterable[int]) -> int:
    """Return the bytes of all pages that these processes have mapped, each once.

    Raises:
        NotMeasuredError: when the kernel shows no frames, as to anybody but the host's root.
    """
    frames: set[int] = set()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it has ended
            frames.update(_frames(pid))
    if frames <= {0}:
        raise NotMeasuredError("the kernel does not say which pages a process has mapped")
    return len(frames) * _PAGE_BYTES


def _frames(pid: int) -> Iterator[int]:
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:  # noqa: PTH123  what is read from stays where it is
        for begin, end in _RANGE.findall(Path(f"/proc/{pid}/maps").read_text()):
            first, last = int(begin, 16), int(end, 16)
            if first >= _KERNEL:
                continue
            pagemap.seek(first // _PAGE_BYTES * _ENTRY_BYTES)
            entries = memoryview(pagemap.read((last - first) // _PAGE_BYTES * _ENTRY_BYTES)).cast("Q")
            yield from (entry & _FRAME for entry in entries if entry & _PRESENT)
