"""The guest agent's code, given to a machine with what it boots from: the same files that the session runs from."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

PLACE: Final = "sbx"  # the folder of the initramfs that the agent finds its code in
PACKAGE: Final = "sandhold"

# All that `guest/agent` imports of this package, and what that imports in turn; a test walks the imports.
MODULES: Final = (
    "cell/execution.py",
    "cell/guest/agent.py",
    "cell/guest/commands.py",
    "cell/guest/layer_disk.py",
    "cell/machine/frames.py",
    "cell/guest/network.py",
    "cell/machine/plan.py",
    "cell/guest/root.py",
    "cell/places.py",
    "cell/plan.py",
    "cell/inside/seeds_inside.py",
    "cell/spec.py",
    "linux/children.py",
    "linux/interfaces.py",
    "linux/mounts.py",
    "linux/process.py",
    "linux/syscalls.py",
    "linux/users.py",
)


def with_agent(initramfs: Path) -> int:
    """Return an initramfs that has the agent's code too, as a descriptor of memory: the kernel unpacks archives one
    after the other. Documentation/driver-api/early-userspace/buffer-format.rst."""
    data = initramfs.read_bytes()
    fd = os.memfd_create("initramfs", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(data + bytes(-len(data) % 4))
        file.write(agent_archive())
    os.fchmod(fd, 0o444)
    return fd


def agent_archive() -> bytes:
    """Return the agent's code as an archive."""
    return b"".join(_archive())


def _archive() -> Iterator[bytes]:
    source = Path(__file__).resolve().parents[2]
    for folder in (PLACE, f"{PLACE}/{PACKAGE}"):
        yield _entry(folder, b"", 0o040755)
    yield _entry(f"{PLACE}/{PACKAGE}/__init__.py", b"", 0o100644)
    rooms = {parent.as_posix() for name in MODULES for parent in PurePosixPath(name).parents} - {"."}
    for room in sorted(rooms):  # a folder comes before what is in it
        yield _entry(f"{PLACE}/{PACKAGE}/{room}", b"", 0o040755)
        yield _entry(f"{PLACE}/{PACKAGE}/{room}/__init__.py", b"", 0o100644)
    for name in MODULES:
        yield _entry(f"{PLACE}/{PACKAGE}/{name}", (source / name).read_bytes(), 0o100644)
    yield _entry("TRAILER!!!", b"", 0)


def _entry(name: str, content: bytes, mode: int) -> bytes:
    """Return one member in the new ASCII format ("newc"), whose numbers are eight hexadecimal digits each."""
    path = name.encode("ascii") + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + path
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
