"""A person's terminal: a program runs at it, and what they would see on its screen can be asked for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pexpect
import pyte

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType
    from typing import Self

APPEAR_TIMEOUT_S: Final = 120.0  # an agent that installs a package before it answers
READ_BYTES: Final = 65536

ALTERNATE_SCREEN: Final = 1049
BRACKETED_PASTE: Final = 2004
MOUSE: Final = frozenset({1000, 1002, 1003, 1006})
_PRIVATE: Final = 5  # pyte keeps the modes of `CSI ? n h` shifted by so many bits


class _Answering(pyte.Screen):
    """A screen that answers what programs ask terminals, as terminals do: where the cursor is, and what they are."""

    def __init__(self, columns: int, rows: int, answer: Callable[[str], object]) -> None:
        self._answer = answer
        super().__init__(columns, rows)

    def write_process_input(self, data: str) -> None:
        """Send an answer."""
        self._answer(data)


class ProgramAtScreen:
    """A program at a pseudo-terminal, with an emulated screen behind it, for the length of a `with`."""

    def __init__(self, argv: list[str], folder: Path, rows: int, columns: int) -> None:
        self._child: pexpect.spawn[bytes] = pexpect.spawn(
            argv[0], argv[1:], cwd=str(folder), dimensions=(rows, columns), echo=True
        )
        self._screen = _Answering(columns, rows, self._child.send)
        self._stream = pyte.ByteStream(self._screen)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.close(force=True)

    @property
    def text(self) -> str:
        """What stands on the screen."""
        return "\n".join(line.rstrip() for line in self._screen.display)

    @property
    def modes(self) -> frozenset[int]:
        """The private modes that are on (`CSI ? n h`)."""
        return frozenset(mode >> _PRIVATE for mode in self._screen.mode if mode >> _PRIVATE)

    def type(self, text: str) -> None:
        """Type."""
        self._child.send(text)

    def paste(self, text: str) -> None:
        """Paste, as terminals do for a program that has asked for it."""
        assert BRACKETED_PASTE in self.modes
        self._child.send(f"\x1b[200~{text}\x1b[201~")

    def wait_for(self, text: str) -> None:
        """Wait until a text stands on the screen."""
        deadline = time.monotonic() + APPEAR_TIMEOUT_S
        while text not in self.text:
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"{text!r} did not appear on\n{self.text}"
            assert self._read(left_s), f"it ended before {text!r} appeared on\n{self.text}"

    def resize(self, rows: int, columns: int) -> None:
        """Change the window's size, on a blank screen: what stands on it later was drawn for the new size."""
        self._screen.resize(rows, columns)
        self._screen.erase_in_display(2)
        self._child.setwinsize(rows, columns)

    def wait(self) -> int:
        """Read to the end and return the exit status."""
        deadline = time.monotonic() + APPEAR_TIMEOUT_S
        while self._read(max(0.0, deadline - time.monotonic())):
            assert time.monotonic() < deadline, f"it did not end:\n{self.text}"
        self._child.wait()
        assert self._child.exitstatus is not None, f"it was killed by signal {self._child.signalstatus}"
        return self._child.exitstatus

    def _read(self, timeout_s: float) -> bool:
        try:
            self._stream.feed(self._child.read_nonblocking(READ_BYTES, timeout_s))
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        return True
