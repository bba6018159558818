"""The program that carries frames between the raw end of a cable and QEMU, where no tap device may be made.

It runs on the session's side with two descriptors and the rights of a user that owns nothing; it looks into no frame.
What does not fit, or finds its other side full, is dropped as on any network.
"""

from __future__ import annotations

import contextlib
import select
import socket
from typing import TYPE_CHECKING, Final

from sandhold.cell.machine.confinement import confine

if TYPE_CHECKING:
    from collections.abc import Sequence

FRAME_BYTES_MAX: Final = 2048  # the card's largest frame is 1514; nothing puts frames together on this cable
FRAMES_AT_ONCE_MAX: Final = 64  # from one side, before the other gets its turn
BUFFER_BYTES: Final = 1 << 20  # of each side: a window of TCP's in flight


def main(fds: Sequence[int]) -> None:
    """Run with the cable, QEMU's end, and a packet socket on which the session says who it is: `parent user`."""
    cable, machine, link = (socket.socket(fileno=fd) for fd in fds)
    parent, user = map(int, link.recv(64).split())
    if confine(user or None, parent):
        carry(cable, machine)


def carry(cable: socket.socket, machine: socket.socket) -> None:
    """Carry frames both ways until one side is gone."""
    other = {cable.fileno(): (cable, machine), machine.fileno(): (machine, cable)}
    poll = select.poll()
    for fd, (side, _) in other.items():
        side.setblocking(False)  # noqa: FBT003  # the socket's own interface
        poll.register(fd, select.POLLIN)
    while True:
        for fd, events in poll.poll():
            if events & (select.POLLHUP | select.POLLNVAL):
                return
            _carry_some(*other[fd])


def _carry_some(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        for _ in range(FRAMES_AT_ONCE_MAX):
            frame = source.recv(FRAME_BYTES_MAX)
            with contextlib.suppress(OSError):  # full, or larger than the card: dropped
                target.send(frame)
