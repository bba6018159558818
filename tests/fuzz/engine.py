"""A small mutation fuzzer: deterministic by its seed, in two phases that differ in what they learn from.

A target is judged by a function from bytes to the *kind* of its answer (a type, one of our own messages). The function
raises when a rule of the parser is broken. In both phases an input with a kind of answer that nobody has seen becomes
one to start from.

1. *Traced*: an input that takes a step from one line of ours to another that none took before becomes one to start
   from as well. To be traced makes a parser many times slower, so this phase is short.
2. *Fast*: the inputs that were found so far, changed, at the speed of the parser itself.
"""

from __future__ import annotations

import faulthandler
import random
import resource
import signal
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import CodeType, FrameType

    Check = Callable[[bytes], str]

TRACED_ONE_IN: Final = 20  # of the executions of a run, at its start
TRACED_MAX: Final = 50_000  # by then a parser of a few hundred lines shows a new step once in thousands of inputs
BATCH: Final = 1000  # executions between two looks at the clock
HANG_S: Final = (
    60.0  # of processor time for a batch that takes a quarter; then the interpreter says where it is and ends
)
STUCK_S: Final = 900.0  # of waiting, for parsers that read sockets; a process that others leave no time waits as well
KEPT_MAX: Final = 2000  # inputs to start from: more than any parser here has kinds of answers
INPUT_BYTES_MAX: Final = 80_000  # beyond the largest limit of any parser
LARGE_ONE_IN: Final = 2000  # most rules are about small inputs; the limits are about large ones
OURS: Final = str(Path(__file__).resolve().parents[2] / "src" / "sandhold")
GROWTH_BYTES_MAX: Final = 128 << 20  # of this process over one target: what a parser holds on to must not pile up

INTERESTING: Final = (
    *(bytes([each]) for each in (0, 1, 9, 10, 13, 32, 0x2E, 0x3A, 0x7F, 0x80, 0xC0, 0xFF)),
    *(b"\r\n", b"\n", b"\r\n\r\n", b"\0\0", b"\xff\xff", b"\x7f\xff", b"\x40\0", b"\xc0\x0c", b"..", b"::", b"[", b"]"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """One parser: where to start from, words of its language, and how it is judged.

    `make` returns the judge; what that needs (a socket pair) is closed with the stack.
    `brief` is how many executions the tests have time for.
    """

    name: str
    corpus: tuple[bytes, ...]
    words: tuple[bytes, ...]
    make: Callable[[ExitStack], Check]
    brief: int = 6000


@dataclass(slots=True)
class Tally:
    """What one run of a target came to."""

    executions: int = 0
    traced: int = 0
    seconds: float = 0.0
    kinds: set[str] = field(default_factory=set)
    starts: int = 0

    def __str__(self) -> str:
        rate = self.executions / self.seconds if self.seconds else 0.0
        return (
            f"{self.executions} executions ({self.traced} of them traced), {rate:.0f} a second, "
            f"{len(self.kinds)} kinds of answers, {self.starts} inputs to start from"
        )


class BrokenError(AssertionError):
    """A parser broke a rule; the text has what is needed to try it again."""


def fuzz(target: Target, seed: int, executions: int, seconds: float = float("inf")) -> Tally:
    """Run a target so many times, or until so many seconds are over.

    Raises:
        BrokenError: with the input, when it broke a rule.
    """
    with ExitStack() as stack:
        return _fuzz(target, target.make(stack), seed, executions, seconds)


def _fuzz(target: Target, check: Check, seed: int, executions: int, seconds: float) -> Tally:
    chance = random.Random(f"{seed} {target.name}")
    starts = list(target.corpus)
    steps = Steps()
    tally = Tally()
    begun, used = time.monotonic(), _memory()
    for data in starts:
        with steps.traced():
            tally.kinds.add(_run(target, check, data))
    to_trace = min(TRACED_MAX, executions // TRACED_ONE_IN)
    while tally.executions < executions and tally.seconds < seconds:
        with _hang_watch():
            for _ in range(min(BATCH, executions - tally.executions)):
                data = mutate(chance, starts, target.words)
                known = len(steps.taken)
                if tally.traced < to_trace:
                    tally.traced += 1
                    with steps.traced():
                        kind = _run(target, check, data)
                else:
                    kind = _run(target, check, data)
                if kind not in tally.kinds or len(steps.taken) > known:
                    tally.kinds.add(kind)
                    if len(starts) < KEPT_MAX:
                        starts.append(data)
                tally.executions += 1
        tally.seconds = time.monotonic() - begun
    tally.starts = len(starts)
    if _memory() - used > GROWTH_BYTES_MAX:
        raise BrokenError(f"{target.name} holds on to memory: {_memory() - used} bytes more than before")
    return tally


class Steps:
    """The steps from line to line of ours that executions have taken, seen by sys.settrace(3)."""

    def __init__(self) -> None:
        self.taken: set[tuple[CodeType, int, int]] = set()

    @contextmanager
    def traced(self) -> Iterator[None]:
        """Trace what runs meanwhile, and let go of whoever traced before until then."""
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        if event != "call" or not frame.f_code.co_filename.startswith(OURS):
            return None
        code, last = frame.f_code, 0

        def step(frame: FrameType, event: str, _: object) -> Callable[..., Any]:
            nonlocal last
            if event == "line":
                self.taken.add((code, last, frame.f_lineno))
                last = frame.f_lineno
            return step

        return step


@contextmanager
def _hang_watch() -> Iterator[None]:
    faulthandler.register(signal.SIGPROF, chain=True)  # the default action behind it ends the process
    faulthandler.dump_traceback_later(STUCK_S, exit=True)
    signal.setitimer(signal.ITIMER_PROF, HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        faulthandler.unregister(signal.SIGPROF)


def mutate(chance: random.Random, starts: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Return one of `starts`, changed in a few places."""
    data = bytearray(chance.choice(starts))
    for _ in range(1 + int(chance.random() ** 3 * 8)):
        chance.choice(_CHANGES)(chance, data, starts, words)
    if chance.random() * LARGE_ONE_IN < 1:
        data *= 1 + chance.randrange(200)
    return bytes(data[:INPUT_BYTES_MAX])


def _run(target: Target, check: Check, data: bytes) -> str:
    try:
        return check(data)
    except Exception as error:
        raise BrokenError(f"{target.name} broke on bytes.fromhex({data.hex()!r}): {error!r}") from error


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _flip(chance: random.Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    if data:
        data[int(chance.random() * len(data))] ^= 1 << int(chance.random() * 8)


def _set(chance: random.Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    if data:
        data[int(chance.random() * len(data))] = int(chance.random() * 256)


def _step(chance: random.Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    if data:
        at = int(chance.random() * len(data))
        data[at] = (data[at] + int(chance.random() * 9) - 4) & 0xFF


def _insert(chance: random.Random, data: bytearray, _: Sequence[bytes], words: Sequence[bytes]) -> None:
    at = int(chance.random() * (len(data) + 1))
    data[at:at] = chance.choice(words if words and chance.random() < 0.7 else INTERESTING)


def _replace(chance: random.Random, data: bytearray, _: Sequence[bytes], words: Sequence[bytes]) -> None:
    word = chance.choice(words if words and chance.random() < 0.7 else INTERESTING)
    at = int(chance.random() * (len(data) + 1))
    data[at : at + len(word)] = word


def _delete(chance: random.Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    at = int(chance.random() * (len(data) + 1))
    del data[at : at + 1 + int(chance.random() ** 3 * 32)]


def _repeat(chance: random.Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    at = int(chance.random() * (len(data) + 1))
    part = data[at : at + 1 + int(chance.random() * 24)]
    data[at:at] = part * (1 + int(chance.random() ** 4 * 20))


def _cut(chance: random.Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    del data[int(chance.random() * (len(data) + 1)) :]


def _splice(chance: random.Random, data: bytearray, starts: Sequence[bytes], _: Sequence[bytes]) -> None:
    other = chance.choice(starts)
    at = int(chance.random() * (len(data) + 1))
    data[at:] = other[int(chance.random() * (len(other) + 1)) :]


_CHANGES: Final = (_flip, _set, _step, _insert, _insert, _replace, _replace, _delete, _repeat, _cut, _splice)
