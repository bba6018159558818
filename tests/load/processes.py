"""What the processes of one running sandbox use, as the kernel counts it (proc(5))."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.installation import Installation

SESSION: Final = "session"
EGRESS: Final = "egress"
FIRST: Final = "process 1"
LINK: Final = "link"
MACHINE: Final = "machine"


@dataclass(frozen=True, slots=True)
class Use:
    """What one process uses: memory in KiB, open descriptors, threads.

    `pss_kib` is its proportional share, which also moves when other programs come and go that map the same files;
    `anonymous_kib` is what it has written itself and nobody else moves.
    """

    pss_kib: int
    anonymous_kib: int
    descriptors: int
    threads: int


def parts(sbx: Installation, name: str) -> Mapping[str, int]:
    """Return the host-side processes of a running sandbox by what they are; empty when it does not run."""
    try:
        marker = json.loads((sbx.state / "sandboxes" / name / "session.json").read_text())
    except (OSError, ValueError):
        return {}
    session = int(marker["pid"])
    found = {SESSION: session}
    for child in children(session):
        words = command_line(child)
        if b"sandhold.session.children.egress_program" in words:
            found[EGRESS] = child
        elif words.rstrip(b"\0") == b"sbx":
            found[FIRST] = child
        elif b"sandhold.cell.machine.link" in words:
            found[LINK] = child
    if LINK in found:
        machines = [pid for pid in descendants(session) if command_line(pid).startswith(b"/usr/bin/qemu-system")]
        found |= dict(zip((MACHINE,), machines, strict=False))
    return found


def children(pid: int) -> list[int]:
    """Return the processes that a process started, oldest first.

    Read off every process there is: the kernel's own list of children leaves some out while others end (proc(5)).
    """
    return _by_parent().get(pid, [])


def descendants(pid: int) -> list[int]:
    """Return the processes that a process started, and those that they started."""
    by_parent = _by_parent()

    def below(parent: int) -> list[int]:
        return [each for child in by_parent.get(parent, []) for each in (child, *below(child))]

    return below(pid)


def _by_parent() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for number in sorted(int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal()):
        with suppress(OSError):
            parent = int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])
            found.setdefault(parent, []).append(number)
    return found


def command_line(pid: int) -> bytes:
    """Return the words of a process, empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_gone(pid: int) -> bool:
    """Whether no process has that number, or only one that its parent has not looked after yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return True


def use_of(pid: int) -> Use:
    """Return what a process uses now.

    Raises:
        OSError: when it is gone.
    """
    folder = Path(f"/proc/{pid}")
    lines = (folder / "smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    descriptors, threads = (len(list((folder / what).iterdir())) for what in ("fd", "task"))
    return Use(sizes["Pss"], sizes["Anonymous"], descriptors, threads)
