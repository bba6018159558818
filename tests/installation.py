"""A whole installation of sbx for a test: its own state folder, the real command, real terminals."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COMMAND_TIMEOUT_S = 300.0  # a template is built in the first one that needs it
BUILD_TIMEOUT_S = 2400.0  # of one that surely builds, on a busy machine: what the product gives a build, and more
EXPECT_TIMEOUT_S = 60.0
USERS_TIMEOUT_S = 180.0  # other test runs of this machine make users, too

SOURCE = Path(__file__).resolve().parents[1] / "src"


@dataclass(frozen=True, slots=True)
class Done:
    """What one command said."""

    status: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Installation:
    """The command with state of its own; `user` is who runs it (None: whoever runs the tests), `program` how."""

    home: Path
    data: Path
    program: tuple[str, ...] = (sys.executable, "-m", "sandhold")
    prefix: tuple[str, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The environment commands run with."""
        kept = ("PATH", "SSL_CERT_FILE", "LANG")
        return {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "HOME": str(self.home),
            "XDG_STATE_HOME": str(self.home / "state"),
            "XDG_DATA_HOME": str(self.data),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "TERM": "xterm-256color",
            "CI": "true",
            **self.extra,
        }

    @property
    def state(self) -> Path:
        """The folder of everything that lasts."""
        return self.home / "state" / "sandhold"

    def argv(self, *words: str) -> list[str]:
        """The command line of `sbx WORDS`, run as this installation's user."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return [*self.prefix, "env", "-i", *variables, *self.program, *words]

    def __call__(
        self, *words: str, folder: Path | None = None, given: str | None = None, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> Done:
        """Run `sbx WORDS` to its end, without a terminal."""
        done = subprocess.run(
            self.argv(*words),
            cwd=folder or self.home,
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=timeout_s,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def ok(
        self, *words: str, folder: Path | None = None, given: str | None = None, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> str:
        """Run `sbx WORDS`, which must succeed; returns what it printed."""
        done = self(*words, folder=folder, given=given, timeout_s=timeout_s)
        assert done.status == 0, f"sbx {' '.join(words)}: {done.status}\n{done.out}\n{done.err}"
        return done.out

    def start(self, *words: str, folder: Path | None = None) -> subprocess.Popen[str]:
        """Start `sbx WORDS` without a terminal; whoever starts it ends it."""
        return subprocess.Popen(
            self.argv(*words),
            cwd=folder or self.home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
        )

    def records(self, name: str) -> list[dict[str, Any]]:
        """Every record of a sandbox's trail."""
        path = self.state / "audit" / f"{name}.jsonl"
        lines = path.read_text("ascii").splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]  # the last one may be half written yet

    def log(self, name: str, *flags: str) -> list[tuple[str, ...]]:
        """The rows of `sbx policy log NAME`, split at blanks."""
        return [tuple(line.split()) for line in self.ok("policy", "log", name, "--no-follow", *flags).splitlines()]


def change_users(*argv: str) -> None:
    """Run `useradd`, `usermod` or `userdel`, which give up after a while when another of them is at work."""
    deadline = time.monotonic() + USERS_TIMEOUT_S
    while True:
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
        if done.returncode == 0:
            return
        assert "lock" in done.stderr, f"{argv}: {done.stderr}"
        assert time.monotonic() < deadline, f"{argv}: {done.stderr}"


class Terminal:
    """`sbx WORDS` at a real pseudo-terminal, typed at and read as a person would."""

    def __init__(self, argv: list[str], folder: Path, rows: int = 24, columns: int = 80) -> None:
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # as at a login, also when the tests run in the background
            os.chdir(folder)
            os.execvp(argv[0], argv)
        self.text = ""
        self._read_to = 0
        self.resize(rows, columns)

    def resize(self, rows: int, columns: int) -> None:
        """Change the window's size; the kernel tells the program."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """Type."""
        os.write(self._master, text.encode())

    def expect(self, text: str, timeout_s: float = EXPECT_TIMEOUT_S) -> str:
        """Read until the text appears after what was expected before; returns what came up to it."""
        deadline = time.monotonic() + timeout_s
        while (found := self.text.find(text, self._read_to)) < 0:
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"{text!r} did not appear in {self.text[self._read_to :]!r}"
            assert self._read(left_s), f"ended before {text!r} appeared in {self.text[self._read_to :]!r}"
        before, self._read_to = self.text[self._read_to : found], found + len(text)
        return before

    def settings(self) -> list[Any]:
        """The terminal's settings (termios(3))."""
        return termios.tcgetattr(self._master)

    def hang_up(self) -> None:
        """Close the terminal under the program, as closing a window does."""
        with contextlib.suppress(OSError):
            os.close(self._master)
        self._master = -1

    def wait(self, timeout_s: float = EXPECT_TIMEOUT_S) -> int:
        """Read to the end and return the exit status."""
        deadline = time.monotonic() + timeout_s
        while self._master >= 0 and self._read(max(0.0, deadline - time.monotonic())):
            pass
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, f"did not end: {self.text[-400:]!r}"
            select.select([], [], [], 0.01)

    def close(self) -> None:
        """End it, if it has not ended."""
        self.hang_up()
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._master], [], [], timeout_s)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False  # EIO: the last program at the terminal is gone (pty(7))
        self.text += data.decode("utf-8", "replace")
        return bool(data)


@contextlib.contextmanager
def at_terminal(sbx: Installation, *words: str, folder: Path | None = None) -> Iterator[Terminal]:
    """Run `sbx WORDS` at a terminal for the length of a `with`."""
    terminal = Terminal(sbx.argv(*words), folder or sbx.home)
    try:
        yield terminal
    finally:
        terminal.close()


def wait_until(condition: Any, what: str, timeout_s: float = EXPECT_TIMEOUT_S) -> None:
    """Wait for something that nobody announces, with an end to it."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"never came about: {what}"
        select.select([], [], [], 0.02)
