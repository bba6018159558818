"""The namespaces cell that QEMU runs in, and QEMU started in it as a command: the same for every machine of ours."""

from __future__ import annotations

import errno
import os
import select
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandhold.cell.layout import AGENT_HOME
from sandhold.cell.machine.acceleration import DEVICE
from sandhold.cell.machine.link import printable
from sandhold.cell.machine.qemu import Acceleration, RefusedError
from sandhold.cell.spec import CellDied, Command, Exited, Template, TemplateKind
from sandhold.model.sandbox import Limits

if TYPE_CHECKING:
    import contextlib

    from sandhold.cell.machine.qemu import Descriptors, Shape
    from sandhold.cell.namespaces import NamespacesCell
    from sandhold.cell.spec import CellEvent, CellSpec, CommandId
    from sandhold.linux.process import Child

OUTER_LAYER: Final = "machine"
OVERHEAD_BYTES: Final = 768 << 20  # QEMU's own: translated code, buffers of its devices
PIDS_MAX: Final = 512  # QEMU's threads: one a processor, and those that serve files
LAST_WORDS_S_MAX: Final = 5.0  # what somebody said before it ended is on its way
WORDS_BYTES_MAX: Final = 2000
_TAIL_BYTES_MAX: Final = 4096  # of what QEMU said
_GAVE_UP: Final = 1  # QEMU's exit status when it cannot be what it was asked to be
_WANTS: Final = (errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EAGAIN)


def outer_spec(spec: CellSpec, shape: Shape) -> CellSpec:
    """Return the cell that QEMU runs in: its own empty layer, the sandbox's folders, and room for QEMU itself."""
    return replace(
        spec,
        template=Template(TemplateKind.HOST, Path("/")),
        layer=spec.layer / OUTER_LAYER,
        files=(),
        seeds=(),
        limits=Limits(spec.limits.cpus, shape.memory + OVERHEAD_BYTES, PIDS_MAX),
        devices=(DEVICE.name,) if shape.acceleration is Acceleration.KVM else (),
    )


def socket_pair(stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    """Return two ends of a stream, which close with `stack`."""
    ours, theirs = socket.socketpair()
    return stack.enter_context(ours), stack.enter_context(theirs)


def start_machine(outer: NamespacesCell, line: tuple[str, ...], parts: Descriptors) -> tuple[CommandId, socket.socket]:
    """Start QEMU; what it says on its standard output and error comes on the socket."""
    said, saying = socket.socketpair()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        environment = (("PATH", "/usr/bin:/bin"), ("HOME", AGENT_HOME), ("LC_ALL", "C"))
        command = Command(line, environment, "/")
        return outer.start(command, (null, saying.fileno(), saying.fileno()), parts.all()), said
    except BaseException:
        said.close()
        raise
    finally:
        saying.close()
        os.close(null)


def last_words(qemu: int, link: int | None = None) -> str:
    """Return what QEMU and the link said last; a guest that ends its QEMU ends the link by that."""
    parts = [os.pread(link, WORDS_BYTES_MAX, 0)] if link is not None else []
    if select.select([qemu], [], [], LAST_WORDS_S_MAX)[0]:
        parts.insert(0, os.read(qemu, _TAIL_BYTES_MAX))
    return "; ".join(printable(part.decode("utf-8", "replace")) for part in parts if part) or "it ended without a word"


def qemu_ended(events: list[CellEvent]) -> bool:
    """Whether QEMU, or the cell that it runs in, has ended."""
    return any(isinstance(event, CellDied | Exited) for event in events)


def end_of_machine(events: list[CellEvent], words: str) -> OSError:
    """Return the error for a machine that ended before it was ready, by what happened and QEMU's last words.

    It is a refusal when QEMU gave up by itself, but not for want of what there is at other times.
    """
    gave_up = any(isinstance(event, Exited) and event.status == _GAVE_UP for event in events)
    is_want = any(os.strerror(want) in words for want in _WANTS)
    kind = RefusedError if gave_up and not is_want else OSError
    return kind(f"the machine did not start: {words}")


def end_child(child: Child) -> None:
    """End a helper and wait for that."""
    child.kill()
    child.wait(LAST_WORDS_S_MAX)
