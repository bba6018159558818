"""A terminal inside is the user's own terminal: every byte, every size, every way out."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.installation import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.installation import Installation
    from tests.isolation import Kind

EXPECT_S = 60.0

TERMINAL_BYTES = 4000  # a little less than the line discipline holds (N_TTY_BUF_SIZE): nobody reads any more


class Desk:
    """A pseudo-terminal with settings of its own, that outlives the command run at it; all in bytes."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        settings = termios.tcgetattr(self.slave)
        settings[3] &= ~termios.ECHOCTL  # a setting that no program puts back by accident
        settings[6][termios.VINTR] = b"\x07"
        termios.tcsetattr(self.slave, termios.TCSANOW, settings)
        self.resize(24, 80)
        self.data = b""
        self._read_to = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, argv: list[str], folder: Path) -> None:
        """Run a command at it."""
        self.process = subprocess.Popen(
            argv,
            cwd=folder,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one system call, no threads
        )

    def settings(self) -> list[Any]:
        """The terminal's settings (termios(3))."""
        return termios.tcgetattr(self.slave)

    def is_raw(self) -> bool:
        """Whether keys go to the program as they are typed."""
        return not self.settings()[3] & termios.ICANON

    def unread(self) -> int:
        """How many bytes wait to be read on the user's side (ioctl_tty(2), FIONREAD)."""
        return int(struct.unpack("i", fcntl.ioctl(self.master, termios.FIONREAD, bytes(4)))[0])

    def resize(self, rows: int, columns: int) -> None:
        """Change the window's size."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, data: bytes) -> None:
        """Type."""
        os.write(self.master, data)

    def expect(self, wanted: bytes) -> bytes:
        """Read until these bytes come after what was expected before; returns what came up to them."""
        deadline = time.monotonic() + EXPECT_S
        while (found := self.data.find(wanted, self._read_to)) < 0:
            rest = self.data[self._read_to :]
            assert time.monotonic() < deadline, f"{wanted!r} did not come in {rest!r}"
            assert self.read(deadline - time.monotonic()), f"ended before {wanted!r} in {rest!r}"
        before, self._read_to = self.data[self._read_to : found], found + len(wanted)
        return before

    def read(self, timeout_s: float) -> bool:
        """Read what there is; False when nothing comes in time."""
        if not select.select([self.master], [], [], timeout_s)[0]:
            return False
        self.data += os.read(self.master, 65536)
        return True

    def wait(self) -> int:
        """Read on until the command ends; returns its exit status, and reads the rest."""
        assert self.process is not None
        deadline = time.monotonic() + EXPECT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"did not end: {self.data[-400:]!r}"
            self.read(0.02)
        while self.read(0):
            pass
        return self.process.returncode

    def close(self) -> None:
        """End what runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for descriptor in (self.master, self.slave):
            with contextlib.suppress(OSError):
                os.close(descriptor)


@contextlib.contextmanager
def desk(sbx: Installation, *words: str) -> Iterator[Desk]:
    """Run `sbx WORDS` at a terminal."""
    one = Desk()
    try:
        one.start(sbx.argv(*words), sbx.home)
        yield one
    finally:
        one.close()


@pytest.fixture
def lab(sbx: Installation, project: Path, isolation: Kind) -> Installation:
    """Create a sandbox `lab` of each kind."""
    sbx.ok("create", *isolation.quickest, "--name", "lab", "shell", ".", folder=project)
    return sbx


def status(sbx: Installation) -> str:
    """Return what `ls` says of the sandbox."""
    return sbx.ok("ls").splitlines()[1].split()[2]


def session_pid(sbx: Installation) -> int:
    """Return the process of the sandbox's session."""
    return int(json.loads((sbx.state / "sandboxes" / "lab" / "session.json").read_text())["pid"])


def write_program(project: Path, name: str, text: str) -> None:
    """Put a program into the project, where the sandbox sees it."""
    (project / name).write_text(text)


FULL_SCREEN = """
import os, sys, termios, tty
before = termios.tcgetattr(0)
tty.setraw(0)
os.write(1, b"<" + bytes.fromhex(sys.argv[1]) + b">")
taken = b""
while len(taken) < int(sys.argv[2]):
    taken += os.read(0, 4096)
os.write(1, b"[" + taken.hex().encode() + b"]")
termios.tcsetattr(0, termios.TCSADRAIN, before)
"""

SHOWN = (
    b"\x1b[?1049h\x1b[?1000h\x1b[?1006h\x1b[?2004h\x1b[?25l\x1b[>1u"  # screen, mouse, paste, cursor, keys
    b"\x1b[38;2;255;100;0mtrue colour\x1b[0m\x1b]8;;http://example.com\x1b\\link\x1b]8;;\x1b\\"
    + bytes(range(256))
    + "日本語 🎉".encode()
    + b"\x1b[<u\x1b[?25h\x1b[?2004l\x1b[?1006l\x1b[?1000l\x1b[?1049l"
)
TYPED = (
    b"\x1b[<0;10;5M\x1b[<0;10;5m\x1b[200~pasted\ntext\r\x1b[201~\x1b[A\x1b[3~\x1bOP"
    + bytes(range(256))[:0x10]
    + bytes(range(256))[0x12:]
    + b"\x11\x10"
    + "日本語".encode()
    + b"\x10x"
)


def test_every_byte_passes(lab: Installation, project: Path) -> None:
    """A full-screen program shows and reads every byte as it is: mouse, pastes, true colour, all 256 values."""
    write_program(project, "screen.py", FULL_SCREEN)
    with desk(lab, "exec", "-i", "-t", "lab", "python3", "screen.py", SHOWN.hex(), str(len(TYPED))) as user:
        user.expect(b"<")
        assert user.expect(SHOWN + b">") == b""
        user.type(TYPED)
        assert bytes.fromhex(user.expect(b"]").removeprefix(b"[").decode()) == TYPED
        assert user.wait() == 0
        assert user.data.endswith(b"]")


def test_keys_alone(lab: Installation, project: Path) -> None:
    """Each of the two keys that leave reaches the program when the other does not follow."""
    write_program(project, "screen.py", FULL_SCREEN)
    with desk(lab, "exec", "-i", "-t", "lab", "python3", "screen.py", "00", "3") as user:
        user.expect(b"<\0>")
        user.type(b"\x11")
        user.type(b"\x10")
        assert not user.read(2.0)  # longer than a key is held back
        user.type(b"!")
        assert user.expect(b"]") == b"[111021"
        assert user.wait() == 0


SIZES = """
import os, signal
def say(*_):
    os.write(1, b"%d %d\\n" % os.get_terminal_size(0))  # a signal may come while it is written
signal.signal(signal.SIGWINCH, say)
say()
input()
"""


def test_a_size_follows(lab: Installation) -> None:
    """A program inside is told of the window's size at the start and at each change."""
    with desk(lab, "exec", "-it", "lab", "python3", "-c", SIZES) as user:
        user.expect(b"80 24\r\n")
        user.resize(50, 132)
        user.expect(b"132 50\r\n")
        user.resize(10, 20)
        user.expect(b"20 10\r\n")
        user.type(b"\r")
        assert user.wait() == 0


JOB = """
import os, signal
signal.signal(signal.SIGCONT, lambda *_: os.write(1, b"going on"))
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.write(1, b"ready")
while True:
    signal.pause()
"""


def test_job_control(lab: Installation, project: Path) -> None:
    """Ctrl-Z stops a program inside, `fg` takes it on, and Ctrl-C ends it."""
    write_program(project, "job.py", JOB)
    with desk(lab, "run", "lab") as user:
        user.expect(b"$ ")
        user.type(b"python3 job.py\r")
        user.expect(b"ready")
        user.type(b"\x1a")
        user.expect(b"Stopped")
        user.expect(b"$ ")
        user.type(b"fg\r")
        user.expect(b"going on")
        user.type(b"\x03")
        user.expect(b"$ ")
        user.type(b"echo sta''tus=$?\r")
        user.expect(b"status=130")
        user.expect(b"$ ")
        user.type(b"exit 7\r")
        assert user.wait() == 7


def test_several_users(lab: Installation) -> None:
    """Three terminals at one sandbox have a terminal each, with the size of each window, and end one by one."""
    bash = ("exec", "-it", "lab", "bash")
    with desk(lab, "run", "lab") as first, desk(lab, *bash) as second, desk(lab, *bash) as third:
        users = (first, second, third)
        names = set()
        for rows, user in enumerate(users, start=30):
            user.resize(rows, 90)
            user.type(b"until [ \"$(stty size)\" = '%d 90' ]; do sleep 0.05; done; echo na''me $(tty)\r" % rows)
            user.expect(b"name ")
            names.add(user.expect(b"\r\n"))
        assert len(names) == 3
        for user in users:
            user.type(b"exit 0\r")
        assert [user.wait() for user in users] == [0, 0, 0]
    wait_until(lambda: status(lab) == "stopped", "the sandbox stops when nobody is attached")


LEAVES = {
    "the two control characters": b"\x10\x11",
    "as the kitty keyboard protocol spells them": b"\x1b[112;5u\x1b[112;5:3u\x1b[113;5u",
    "as xterm's modifyOtherKeys spells them": b"\x1b[27;5;112~\x1b[27;5;113~",
}


@pytest.mark.parametrize("keys", LEAVES.values(), ids=LEAVES)
def test_leaving_and_coming_back(lab: Installation, keys: bytes) -> None:
    """`ctrl-p ctrl-q` leaves an agent that goes on; `run` comes back to the same process, with what it showed since."""
    with desk(lab, "run", "lab") as user:
        before = user.settings()
        user.expect(b"$ ")
        user.type(b"echo pi''d=$$; (while ! test -e go; do sleep 0.05; done; echo while aw''ay; touch said) &\r")
        user.expect(b"pid=")
        pid = user.expect(b"\r\n")
        user.type(b"echo rea''dy\r")
        user.expect(b"ready\r\n")
        user.type(keys)
        assert user.wait() == 0
        assert b"the command goes on" in user.data
        assert user.settings() == before
    assert status(lab) == "running"
    (lab.home / "project" / "go").touch()
    wait_until((lab.home / "project" / "said").exists, "it goes on while nobody looks")
    with desk(lab, "run", "lab") as user:
        user.expect(b"ready\r\n")
        user.expect(b"while away\r\n")
        user.type(b"echo again=$$\r")
        user.expect(b"again=" + pid)
        user.type(b"exit 9\r")
        assert user.wait() == 9
    wait_until(lambda: status(lab) == "stopped", "the sandbox stops with its last command")


SCREEN_THAT_LOOKS_LATE = """
import os, signal, tty
tty.setraw(0)
drawn = os.get_terminal_size(0).columns
os.write(1, b"\\x1b[?1049h" + b"x" * 60000 + b"HERE")
def look(*_):
    global drawn
    columns = os.get_terminal_size(0).columns
    if columns != drawn:
        drawn = columns
        os.write(1, b"drawn %d;" % columns)
signal.signal(signal.SIGALRM, look)
signal.signal(signal.SIGWINCH, lambda *_: signal.setitimer(signal.ITIMER_REAL, 0.05))
while True:
    if os.read(0, 1) == b"q":
        os._exit(3)
"""


def test_a_program_that_looks_at_its_size_late_draws_anew(lab: Installation, project: Path) -> None:
    """Who comes back sees a program, too, that draws only when its size has changed, a moment after it was told."""
    write_program(project, "late.py", SCREEN_THAT_LOOKS_LATE)
    with desk(lab, "run", "lab", "--", "-c", "exec python3 late.py") as user:
        user.expect(b"HERE")
        user.type(b"\x10\x11")
        assert user.wait() == 0
        assert b"\x1b[J" in user.data[user.data.index(b"HERE") :]
    with desk(lab, "run", "lab") as user:
        user.expect(b"drawn 80;")
        user.type(b"q")
        assert user.wait() == 3


def test_a_command_that_was_left_holds_the_sandbox(lab: Installation) -> None:
    """A sandbox whose agent was left runs until that agent ends, however much it says to nobody."""
    with desk(lab, "run", "lab") as user:
        user.expect(b"$ ")
        user.type(b"echo rea''dy; until test -e go; do sleep 0.05; done; seq 200000; exit\r")
        user.expect(b"ready\r\n")
        user.type(b"\x10\x11")
        assert user.wait() == 0
    assert status(lab) == "running"
    (lab.home / "project" / "go").touch()
    wait_until(lambda: status(lab) == "stopped", "it ends although nobody reads")


SCREEN_THAT_STAYS = """
import os, signal, sys, time, tty
tty.setraw(0)
os.write(1, b"\\x1b[?1049h\\x1b[?1002h\\x1b[?2004h\\x1b[?25l\\x1b[6nHERE")
def draw(*_):
    size = os.get_terminal_size(0)
    os.write(1, b"drawn %d;" % size.columns)
signal.signal(signal.SIGWINCH, draw)
while True:
    key = os.read(0, 1)
    os.write(1, b"key " + key.hex().encode() + b";")
    if key == b"q":
        os._exit(3)
"""


def test_a_full_screen_program_that_was_left(lab: Installation, project: Path) -> None:
    """Leaving a full-screen program takes its modes off the user's terminal; coming back puts them on again and makes
    it draw, and questions to the terminal are not asked twice."""
    write_program(project, "stays.py", SCREEN_THAT_STAYS)
    with desk(lab, "run", "lab", "--", "-c", "exec python3 stays.py") as user:
        user.expect(b"\x1b[6nHERE")
        user.type(b"\x10\x11")
        assert user.wait() == 0
        left = user.data[user.data.index(b"HERE") :]
        for mode in (b"\x1b[?1049l", b"\x1b[?1002l", b"\x1b[?2004l", b"\x1b[?25h"):
            assert mode in left
    with desk(lab, "run", "lab") as user:
        again = user.expect(b"HERE")
        assert b"\x1b[6n" not in again
        for mode in (b"\x1b[?1049h", b"\x1b[?1002h", b"\x1b[?2004h", b"\x1b[?25l"):
            assert mode in again
        user.expect(b"drawn 80;")
        user.type(b"a")
        user.expect(b"key 61;")
        user.type(b"q")
        assert user.wait() == 3


def _exit(sbx: Installation, user: Desk) -> None:
    user.type(b"q")


def _stop(sbx: Installation, user: Desk) -> None:
    sbx.ok("stop", "lab")


def _kill_session(sbx: Installation, user: Desk) -> None:
    os.kill(session_pid(sbx), signal.SIGKILL)


def _signal(signum: int) -> Callable[[Installation, Desk], None]:
    def send(sbx: Installation, user: Desk) -> None:
        assert user.process is not None
        os.kill(user.process.pid, signum)

    return send


WAYS_OUT = {
    "the program ends": (_exit, 3),
    "the sandbox is stopped": (_stop, 125),
    "the session is killed": (_kill_session, 125),
    "the client gets SIGTERM": (_signal(signal.SIGTERM), 128 + signal.SIGTERM),
    "the client gets SIGHUP": (_signal(signal.SIGHUP), 128 + signal.SIGHUP),
}


@pytest.mark.parametrize(("leave", "expected"), WAYS_OUT.values(), ids=WAYS_OUT)
def test_the_terminal_is_put_back(
    lab: Installation, project: Path, leave: Callable[[Installation, Desk], None], expected: int
) -> None:
    """However it ends, the user's terminal has its settings back and no mode of the program is left on."""
    write_program(project, "stays.py", SCREEN_THAT_STAYS)
    one = Desk()
    before = one.settings()
    one.close()
    with desk(lab, "exec", "-it", "lab", "python3", "stays.py") as user:
        user.expect(b"HERE")
        assert user.is_raw()
        leave(lab, user)
        assert user.wait() == expected
        assert user.settings() == before
        for mode in (b"1049", b"1002", b"2004"):
            assert user.data.rindex(b"\x1b[?" + mode + b"l") > user.data.rindex(b"\x1b[?" + mode + b"h")


def test_the_terminal_is_put_back_when_nothing_starts(lab: Installation) -> None:
    """A program that is not there leaves the terminal as it was, with the reason and the status of a shell."""
    with desk(lab, "exec", "-it", "lab", "no-such-program") as user:
        before = user.settings()
        assert user.wait() == 127
        assert b"no-such-program" in user.data
        assert user.settings() == before


def test_a_stopped_terminal_holds_nothing_up(lab: Installation) -> None:
    """A client whose terminal takes no more output ends when it is told to, and puts the settings back."""
    one = Desk()
    before = one.settings()
    one.close()
    with desk(lab, "exec", "-it", "lab", "yes") as user:
        user.expect(b"y\r\n")
        wait_until(lambda: user.unread() >= TERMINAL_BYTES, "the terminal is full")
        assert user.process is not None
        user.process.send_signal(signal.SIGTERM)
        assert user.process.wait(EXPECT_S) == 128 + signal.SIGTERM
        assert user.settings() == before


def test_a_paused_client(lab: Installation, project: Path) -> None:
    """A client that is stopped by SIGTSTP puts the terminal back, and takes it again when it goes on."""
    write_program(project, "stays.py", SCREEN_THAT_STAYS)
    with desk(lab, "exec", "-it", "lab", "python3", "stays.py") as user:
        user.expect(b"HERE")
        assert user.process is not None
        user.process.send_signal(signal.SIGTSTP)
        wait_until(lambda: not user.is_raw(), "the terminal is put back")
        user.expect(b"\x1b[?1049l")
        user.process.send_signal(signal.SIGCONT)
        user.expect(b"\x1b[?1049h")
        wait_until(user.is_raw, "the terminal is taken again")
        user.type(b"q")
        assert user.wait() == 3


@pytest.mark.namespaces_only("the host sees no process of a guest")
def test_what_was_left_running_dies_with_the_session(lab: Installation) -> None:
    """A daemon that an agent started, detached from every terminal, ends with the session."""
    with desk(lab, "run", "lab") as user:
        user.expect(b"$ ")
        user.type(b"setsid nohup sleep 4242 >/dev/null 2>&1 & echo star''ted\r")
        user.expect(b"started\r\n")
        wait_until(lambda: daemons() == 1, "the daemon runs")
        user.type(b"exit\r")
        user.wait()
    wait_until(lambda: status(lab) == "stopped", "the sandbox stops")
    assert daemons() == 0


def daemons() -> int:
    """Count the daemons of the test above on this host."""
    count = 0
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            count += (entry / "cmdline").read_bytes() == b"sleep\x004242\x00" if entry.name.isdigit() else 0
    return count
