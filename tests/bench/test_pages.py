"""What a process weighs alone is its own memory and what it maps, whoever else maps that."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.pages import alone_bytes
from benchmarks.processes import NotMeasuredError, pss_bytes

HELD_BYTES = 32 << 20
FORKED = f"""
import os
held = bytearray({HELD_BYTES})
held[::4096] = b"x" * (len(held) // 4096)
child = os.fork()
print(child, flush=True)
input()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel shows page frames to root alone")
def test_what_is_shared_counts_once() -> None:
    """A copy of a process adds next to nothing to it, and what others map counts in full."""
    argv = [sys.executable, "-c", FORKED]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        one, both = alone_bytes([process.pid]), alone_bytes([process.pid, child])
        assert HELD_BYTES < one <= both < one + HELD_BYTES // 4
        assert both > pss_bytes([process.pid, child])
        process.communicate("\n\n")


def test_a_process_that_has_ended_has_no_pages() -> None:
    """What cannot be measured is no figure."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        with pytest.raises(NotMeasuredError):
            alone_bytes([process.pid])
