"""Frames between a cable and a machine, over sockets that keep them apart as a network does."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from sandhold.cell.machine.frame_shuttle import FRAME_BYTES_MAX, carry

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_S = 30.0


@pytest.fixture
def sides() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The far ends of a shuttle at work: the cell's and the machine's."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    thread = threading.Thread(target=carry, args=[near for near, _ in pairs])
    thread.start()
    cell, machine = (far for _, far in pairs)
    for far in (cell, machine):
        far.settimeout(WAIT_S)
    yield cell, machine
    cell.close()
    thread.join(WAIT_S)
    assert not thread.is_alive()
    for end in (machine, *(near for near, _ in pairs)):
        end.close()


def test_frames_pass_one_by_one_both_ways(sides: tuple[socket.socket, socket.socket]) -> None:
    """Frames arrive whole, unchanged, apart from each other and in order."""
    cell, machine = sides
    sent = [bytes([number]) * (number * 90 + 1) for number in range(16)]
    for source, target in (sides, sides[::-1]):
        for frame in sent:
            source.send(frame)
        assert [target.recv(65536) for _ in sent] == sent
    assert cell is not machine


def test_a_frame_beyond_the_cards_own_is_cut(sides: tuple[socket.socket, socket.socket]) -> None:
    """What no card can have sent takes no more room than what one can, and the next frame arrives."""
    cell, machine = sides
    machine.send(bytes(20_000))
    machine.send(b"next")
    assert len(cell.recv(65536)) == FRAME_BYTES_MAX
    assert cell.recv(65536) == b"next"
