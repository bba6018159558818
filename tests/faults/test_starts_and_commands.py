"""Starts and commands that go wrong, or are interrupted, at the moments that are hard to meet."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from sandhold.errors import EXIT_NOT_HELD
from sandhold.session import control
from tests.installation import at_terminal, wait_until
from tests.load import processes

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.conftest import Lab

ORPHANS = (
    "import os\n"
    "for _ in range(600):\n"
    "    if (child := os.fork()) == 0:\n"
    "        if os.fork() == 0:\n"
    "            os._exit(0)\n"
    "        os._exit(0)\n"
    "    os.waitpid(child, 0)\n"
    "print('done')\n"
)


def test_a_stop_during_the_start(lab: Lab) -> None:
    """A sandbox that is stopped while it starts is stopped, and nothing of it is left, at whatever moment."""
    for wanted in (1, 2, 3, 4):  # the session; one after the other of the copies that its helpers will be
        start = lab.sbx.start("run", "-d", "lab")
        wait_until(lambda: start.poll() is not None or len(processes.descendants(start.pid)) >= wanted, "it starts")  # noqa: B023  used within the turn
        begun = processes.descendants(start.pid)
        lab.sbx.ok("stop", "lab")
        start.communicate(timeout=60)
        lab.sbx.ok("stop", "lab")  # it may have been too early to be seen, and have started since
        wait_until(lambda: all(map(processes.is_gone, begun)), "everything has ended")  # noqa: B023
        assert lab.status() == "stopped"
    started, stopped = (
        sum(record["kind"] == kind for record in lab.sbx.records("lab"))
        for kind in ("session-started", "session-stopped")
    )
    assert started == stopped


NETWORK = b"sandhold.cell.inside.network_inside"
LAUNCHER = b"sandhold.cell.launch"
EGRESS = b"sandhold.session.children.egress_program"
MOMENTS = {
    "before there is a network": (NETWORK, lambda there: LAUNCHER in there),
    "before there is a process 1": (LAUNCHER, lambda there: EGRESS in there and NETWORK not in there),
    "before egress answers": (EGRESS, lambda there: b"sbx" in there and LAUNCHER not in there),
}
"""Moments of a start, each by the helper that is held up for it, and by which others are there then."""


@pytest.mark.parametrize(("held", "has_come"), MOMENTS.values(), ids=MOMENTS)
def test_a_kill_during_the_start(lab: Lab, held: bytes, has_come: Callable[[set[bytes]], bool]) -> None:
    """A session that is killed while it starts takes along what it has made by then."""
    start = lab.sbx.start("run", "-d", "lab")

    def there() -> dict[bytes, int]:
        return {processes.command_line(pid).rstrip(b"\0"): pid for pid in processes.descendants(start.pid)}

    wait_until(lambda: held in there(), "there is the helper")
    helper = there()[held]
    os.kill(helper, signal.SIGSTOP)
    wait_until(lambda: has_come(set(there())), "it has come so far")
    session, *made = processes.descendants(start.pid)
    os.kill(session, signal.SIGKILL)
    os.kill(helper, signal.SIGCONT)
    start.communicate(timeout=60)
    assert start.returncode == EXIT_NOT_HELD
    wait_until(lambda: all(map(processes.is_gone, made)), "everything has ended")
    assert lab.sbx.ok("exec", "lab", "echo", "alive") == "alive\n"


def test_a_command_that_cannot_be_started(lab: Lab) -> None:
    """A command that process 1 cannot be asked for fails in words, and what else runs inside goes on."""
    lab.sbx.ok("run", "-d", "lab")
    other = lab.sbx.start("exec", "-i", "lab", "cat")
    folder = lab.sbx.state / "sandboxes" / "lab"
    channel = control.connect(folder)
    assert channel is not None
    with channel:
        channel.send(control.Start(("true", "zero\0byte"), (), (), "", None, wants_terminal=True))
        reply, _ = channel.receive_reply(60)
    assert isinstance(reply, control.Failed)
    assert "could not be started" in reply.message
    out, _ = other.communicate("still here\n", timeout=60)
    assert (out, other.returncode) == ("still here\n", 0)
    assert lab.sbx.ok("exec", "lab", "echo", "alive") == "alive\n"


def test_a_quit_puts_the_terminal_back(lab: Lab) -> None:
    """SIGQUIT, which nobody expects, ends the command at a terminal and leaves the terminal as it was."""
    with at_terminal(lab.sbx, "run", "lab") as terminal:
        before = terminal.settings()
        terminal.expect("$ ")
        assert terminal.settings() != before
        os.kill(terminal.pid, signal.SIGQUIT)
        terminal.wait()
    with at_terminal(lab.sbx, "exec", "-it", "lab", "stty", "-a") as terminal:
        assert "echo" in terminal.expect("-echonl")
        assert terminal.wait() == 0


def test_a_storm_of_orphans(lab: Lab) -> None:
    """Hundreds of orphans that end at once do not keep process 1 from starting commands, and none stays behind."""
    lab.sbx.ok("run", "-d", "lab")
    storm = lab.sbx.start("exec", "lab", "python3", "-c", ORPHANS)
    answered = 0
    while storm.poll() is None:
        assert lab.sbx.ok("exec", "lab", "echo", "alive") == "alive\n"
        answered += 1
    assert storm.communicate()[0] == "done\n"
    assert answered > 0
    first = processes.parts(lab.sbx, "lab")[processes.FIRST]
    wait_until(lambda: not processes.children(first), "every orphan is reaped")
