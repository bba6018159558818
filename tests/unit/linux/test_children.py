"""A process of its own that has children, notices their ends in a poll and looks after them."""

from __future__ import annotations

import subprocess
import sys

WAIT_S = 60
PREAMBLE = """
import os, select, signal
from sandhold.linux.children import REAPED_AT_ONCE_MAX, reap, wake_on_child
woken = wake_on_child()
poll = select.poll()
poll.register(woken, select.POLLIN)
def child(end):
    pid = os.fork()
    if pid == 0:
        end()
    return pid
"""


def run(code: str) -> str:
    """Run code in a process of its own and return what it printed."""
    argv = [sys.executable, "-c", PREAMBLE + code]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_end_is_told_once_with_how() -> None:
    """An exit status is itself, a signal its number below zero, and without a child that ended there is nothing."""
    assert (
        run("""
assert reap(woken) == []
ended = {}
first = child(lambda: os._exit(7))
second = child(lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL) and os.kill(os.getpid(), signal.SIGKILL))
while len(ended) < 2:
    poll.poll()
    for pid, code in reap(woken):
        assert pid not in ended
        ended[pid] = code
print(ended[first], ended[second], reap(woken), poll.poll(0))
""")
        == "7 -9 [] []\n"
    )


def test_a_storm_is_taken_in_turns() -> None:
    """Of many that ended at once a bounded number is taken, and the descriptor is readable again for the rest."""
    assert (
        run("""
hold, release = os.pipe()
def wait():
    os.close(release)
    os.read(hold, 1)
    os._exit(0)
count = REAPED_AT_ONCE_MAX + 40
pids = {child(wait) for _ in range(count)}
os.close(release)
for pid in pids:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
first = reap(woken)
assert poll.poll(0)
second = reap(woken)
print(len(first) == REAPED_AT_ONCE_MAX, len(second), {pid for pid, _ in first + second} == pids)
""")
        == "True 40 True\n"
    )


def test_other_signals_end_nothing() -> None:
    """A process 1 outlives the signals that end others."""
    assert (
        run("""
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE):
    os.kill(os.getpid(), number)
print("alive")
""")
        == "alive\n"
    )
