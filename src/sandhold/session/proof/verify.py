"""Tries to break out of a live sandbox's network layer from inside, and judges by what was heard outside.

Rules:

1. An attempt with a control is made on the host first; where the canary does not hear it there, it proves nothing.
2. The others are judged as `verdicts.py` says.
3. At the end the canary is asked once more: what comes late escaped as well.
"""

from __future__ import annotations

import os
import select
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandhold.errors import EXIT_NOT_HELD, SbxError
from sandhold.linux.process import run
from sandhold.session import control, starting
from sandhold.session.proof.attempts import ATTEMPTS, Attempt, Trace
from sandhold.session.proof.canary import Canary
from sandhold.session.proof.captured import run_captured
from sandhold.session.proof.verdicts import Outcome, Verdict, judge, put_on_record, verdict_on
from sandhold.store.records import Tail, complete_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sandhold.paths import Paths
    from sandhold.store.records import Record

ATTEMPT_TIMEOUT_S: Final = 60.0  # a probe waits three seconds at most; an emulated machine starts `python3` late
INSIDE_PATIENCE_S: Final = 3.0  # a refusal takes milliseconds; more than this is a hang, which is no refusal
OUTSIDE_PATIENCE_S: Final = 0.1  # the canary hears at once and never answers
SAID_BYTES_MAX: Final = 16 * 1024  # four times what the probe reads of any answer
RECORD_TIMEOUT_S: Final = 5.0  # a denial is on record before its answer; what has none may still be on its way
COUNT_TIMEOUT_S: Final = 10.0  # the session runs `nft` and writes a record, on a machine that may be busy
LATE_S: Final = 0.3  # what is still on its way when the last attempt has ended
POLL_S: Final = 0.05
ATTACH_TRIES: Final = 5  # each meets a session that is ending; a sixth in a row is no coincidence

_NOT_FOUND: Final = 127  # what a shell says of a program that is not there
_ATTEMPTED: Final = frozenset({"connection", "request"})


@dataclass(frozen=True, slots=True)
class _Made:
    """What is known of an attempt that was made. `problem` says why it was not."""

    said: str
    heard: tuple[str, ...]
    records: tuple[Record, ...]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    """Where attempts are made: a sandbox's folder and trail, a canary, and the probe's text."""

    folder: Path
    trail: Path
    canary: Canary
    probe: str


def verify(paths: Paths, name: str, environ: Mapping[str, str]) -> Iterator[Verdict]:
    """Make every attempt in sandbox `name`, which is started for as long as it takes, and yield the verdicts as they
    come. When the last one has been taken, the result is on record.

    Raises:
        SbxError: when the sandbox cannot be held (exit status 125), or the result cannot be put on record.
    """
    verdicts: list[Verdict] = []
    with ExitStack() as stack:
        canary = stack.enter_context(Canary.open(paths.state))
        stack.enter_context(_held(paths, name, environ))
        bench = Bench(paths.sandbox(name), paths.trail(name), canary, _probe())
        for attempt in ATTEMPTS:
            verdicts.append(_verdict(bench, attempt))
            yield verdicts[-1]
        select.select([], [], [], LATE_S)
        late = canary.heard()
        if late:
            verdicts.append(Verdict("late", "arrive after all attempts", Outcome.ESCAPED, "; ".join(late)))
            yield verdicts[-1]
        put_on_record(paths.trail(name), name, verdicts)


@contextmanager
def _held(paths: Paths, name: str, environ: Mapping[str, str]) -> Iterator[None]:
    """Keep a sandbox running: a command that reads until we let go."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        with _holder(paths, name, environ, (reader, null, null)):
            yield
    finally:
        for descriptor in (reader, writer, null):
            os.close(descriptor)


def _holder(paths: Paths, name: str, environ: Mapping[str, str], streams: tuple[int, int, int]) -> control.Channel:
    """Start the command that holds the sandbox. A session that was just ending when we came answers nothing: try the
    next."""
    request = control.Start(("cat",), (), (), "agent", "/", wants_terminal=False)
    for _ in range(ATTACH_TRIES):
        channel = starting.reach(paths, name, environ).channel
        try:
            channel.send(request, streams)
            reply, _ = channel.receive_reply(ATTEMPT_TIMEOUT_S)
        except control.ChannelError:
            channel.close()
            continue
        if isinstance(reply, control.Started):
            return channel
        channel.close()
        raise SbxError(f"nothing can be started in `{name}`", hint=f"see `sbx logs {name}`", status=EXIT_NOT_HELD)
    raise SbxError(f"the session of `{name}` does not answer", hint=f"see `sbx logs {name}`", status=EXIT_NOT_HELD)


def _verdict(bench: Bench, attempt: Attempt) -> Verdict:
    arguments = _filled(attempt, bench.canary)
    if arguments is None:
        return verdict_on(attempt, Outcome.SKIPPED, "this host has no such address")
    if attempt.has_control:
        problem = _control(bench, attempt, arguments)
        if problem is not None:
            return verdict_on(attempt, Outcome.SKIPPED, f"proves nothing on this host: {problem}")
    made = _make(bench, attempt, arguments)
    return judge(attempt, made.said, made.heard, made.records, bench.canary.secret, made.problem)


def _filled(attempt: Attempt, canary: Canary) -> tuple[str, ...] | None:
    try:
        return tuple(argument.format_map(canary.words) for argument in attempt.arguments)
    except KeyError:
        return None


def _control(bench: Bench, attempt: Attempt, arguments: tuple[str, ...]) -> str | None:
    """Make the attempt on the host by rule 1; returns why it proves nothing, None when the canary heard it."""
    bench.canary.heard()
    try:
        argv = [sys.executable, "-I", "-c", bench.probe, str(OUTSIDE_PATIENCE_S), attempt.action, *arguments]
        done = run(argv, timeout_s=ATTEMPT_TIMEOUT_S)
    except (OSError, TimeoutError) as error:
        return str(error)
    said = done.stdout.decode("ascii", "backslashreplace").strip()
    is_heard = bool(bench.canary.heard()) or bench.canary.secret in said
    return None if is_heard else said or "it does not work outside either"


def _make(bench: Bench, attempt: Attempt, arguments: tuple[str, ...]) -> _Made:
    """Make the attempt inside, and collect what was heard, said and recorded."""
    tail = Tail(bench.trail, complete_size(bench.trail))
    bench.canary.heard()
    argv = ("python3", "-I", "-c", bench.probe, str(INSIDE_PATIENCE_S), attempt.action, *arguments)
    request = control.Start(argv, (), (), attempt.user, "/", wants_terminal=False)
    said, problem = "", None
    try:
        done = run_captured(bench.folder, request, timeout_s=ATTEMPT_TIMEOUT_S, output_bytes_max=SAID_BYTES_MAX)
        said = done.output.decode("ascii", "backslashreplace").strip()
        if done.status == _NOT_FOUND:
            problem = "there is no `python3` inside to try it with"
        elif done.status != 0:
            problem = done.detail or f"the probe ended with status {done.status}"
    except TimeoutError:
        problem = f"the probe did not end within {ATTEMPT_TIMEOUT_S:g} seconds"
    except control.ChannelError as error:
        problem = f"the session does not answer: {error}"
    records = _records(bench, attempt, tail, is_expected=said.startswith("tried "))
    return _Made(said, tuple(bench.canary.heard()), tuple(records), problem)


def _records(bench: Bench, attempt: Attempt, tail: Tail, *, is_expected: bool) -> list[Record]:
    """Return the records of an attempt; one that is expected is waited for."""
    deadline = time.monotonic() + (RECORD_TIMEOUT_S if is_expected else 0.0)
    found: list[Record] = []
    while True:
        if attempt.trace is Trace.DROPPED:
            _count_dropped(bench.folder)
        found += [record for record in tail.poll() if _is_of(record, attempt, bench.canary)]
        if found or attempt.trace is Trace.NONE or time.monotonic() >= deadline:
            return found
        time.sleep(POLL_S)


def _is_of(record: Record, attempt: Attempt, canary: Canary) -> bool:
    port = attempt.port or canary.port
    match attempt.trace:
        case Trace.LOOKUP:
            return record.kind == "lookup" and canary.token in (record.host or "")
        case Trace.DROPPED:
            return record.kind == "dropped" and record.port == port
        case Trace.CONNECTION | Trace.NONE:
            ports = {record.port, *(claim.port for claim in record.claims)}
            if record.original is not None:
                ports.add(record.original.port)
            is_unnamed = record.via == "proxy" and record.port is None  # what it named cannot be read
            return record.kind in _ATTEMPTED and (port in ports or is_unnamed)


def _count_dropped(folder: Path) -> None:
    """Have the session put on record now what was dropped so far."""
    channel = control.connect(folder)
    if channel is None:
        return
    with channel:
        try:
            channel.send(control.Count())
            channel.receive_reply(COUNT_TIMEOUT_S)
        except control.ChannelError:
            return  # the record stays away, and the verdict says so


def _probe() -> str:
    return Path(__file__).with_name("probe_inside.py").read_text("utf-8")
