"""Breaks parts of a running sandbox on purpose, while a program inside sends without pause, and watches that nothing
comes out meanwhile.

Everything is done to a sandbox made for it: in a temporary folder of its own, with a state, a policy and a trail of its
own; only the template is the user's, which no sandbox can write to. The folder is deleted afterwards.

Rules:

1. What the program sends arrives at a canary on the host's loopback, because a rule of that policy allows it, until the
   part is broken; where nothing arrived before, the fault proves nothing.
2. Whatever arrives after the fault has taken hold escaped.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import tempfile
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandhold.errors import SbxError
from sandhold.model.rule import Effect
from sandhold.model.sandbox import Status
from sandhold.paths import Paths
from sandhold.session import circumstances, control, creation, policies, presence, starting
from sandhold.session.children.egress_process import EGRESS_PROGRAM
from sandhold.session.proof.canary import Canary
from sandhold.session.proof.verdicts import Outcome, Verdict, put_on_record
from sandhold.store.database import open_database
from sandhold.store.rules import add_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

NAME: Final = "drill"
FLOW_TIMEOUT_S: Final = 20.0  # until the first connection arrives: an interpreter's start inside, on a busy machine
FAULT_TIMEOUT_S: Final = 20.0  # until a fault has taken hold
SETTLE_S: Final = 1.0  # for what was allowed and on record before the fault to arrive
WATCH_S: Final = 2.0  # the program sends fifty times a second
POLL_S: Final = 0.02

_SENDING: Final = """
import socket, sys, time
while True:
    try:
        with socket.create_connection(("host.docker.internal", int(sys.argv[1])), 2) as sock:
            sock.sendall(b"still here")
    except OSError:
        pass
    time.sleep(0.02)
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """The sandbox that is broken: where it keeps things, the canary, its session's process and egress."""

    paths: Paths
    canary: Canary
    session: int
    egress: int

    @property
    def folder(self) -> Path:
        """The sandbox's folder."""
        return self.paths.sandbox(NAME)


@dataclass(frozen=True, slots=True)
class Fault:
    """One part that is broken; `strike` returns once it has taken hold."""

    name: str
    what: str
    strike: Callable[[Scene], None]


def drill(paths: Paths, template: str, environ: Mapping[str, str]) -> Iterator[Verdict]:
    """Strike each fault in a fresh sandbox of this template and yield the verdicts as they come; the result is in the
    host's own trail when the last one has been taken.

    Raises:
        SbxError: when no sandbox can be held (exit status 125), or the result cannot be put on record.
    """
    verdicts: list[Verdict] = []
    for fault in FAULTS:
        verdicts.append(struck(fault, paths, template, environ))
        yield verdicts[-1]
    put_on_record(paths.host_trail, policies.HOST_SESSION, verdicts)


def struck(fault: Fault, paths: Paths, template: str, environ: Mapping[str, str]) -> Verdict:
    """Strike one fault in a fresh sandbox and judge by the rules above.

    Raises:
        SbxError: when no sandbox can be held (exit status 125).
    """
    with _scene(paths, template, environ) as scene:
        if not _arrives(scene, FLOW_TIMEOUT_S):
            return Verdict(fault.name, fault.what, Outcome.SKIPPED, "nothing arrived before the fault either")
        try:
            fault.strike(scene)
        except (OSError, TimeoutError, SbxError) as error:
            return Verdict(fault.name, fault.what, Outcome.SKIPPED, f"the fault could not be made: {error}")
        _arrives(scene, SETTLE_S, until_first=False)
        if _arrives(scene, WATCH_S, until_first=False):
            return Verdict(fault.name, fault.what, Outcome.ESCAPED, "connections arrived afterwards")
    return Verdict(fault.name, fault.what, Outcome.CONTAINED, f"nothing arrived in the {WATCH_S:g} s after it")


def _arrives(scene: Scene, for_s: float, *, until_first: bool = True) -> bool:
    """Whether something arrives at the canary within that time; it is watched to its end unless the first is enough."""
    deadline = time.monotonic() + for_s
    has_arrived = False
    while time.monotonic() < deadline:
        has_arrived = bool(scene.canary.heard()) or has_arrived
        if has_arrived and until_first:
            return True
        time.sleep(POLL_S)
    return has_arrived


@contextmanager
def _scene(paths: Paths, template: str, environ: Mapping[str, str]) -> Iterator[Scene]:
    """Make a sandbox in a folder of its own in which a program sends without pause, and take all of it away again."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sbx-drill-")))
        work = folder / "work"
        work.mkdir()
        own = Paths(folder / "state", paths.data, folder / "config")
        canary = stack.enter_context(Canary.open(own.state))
        with closing(open_database(own.database)) as database:
            wanted = creation.Wanted("shell", (str(work),), name=NAME, template=template, protected=())
            creation.make(database, own, creation.plan(wanted, own))
            resource_allowed = f"localhost:{canary.port}"
            add_rules(database, policies.editor(own, database, NAME), Effect.ALLOW, [resource_allowed], sandbox=NAME)
        stack.callback(_end, own)
        with starting.reach(own, NAME, environ).channel as channel:
            _send_on(channel, canary.port)
            marker = presence.look(own.sandbox(NAME)).marker
            assert marker is not None, "a session that starts commands has its marker"
            yield Scene(own, canary, marker.pid, _egress_of(marker.pid))


def _send_on(channel: control.Channel, port: int) -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    argv = ("python3", "-I", "-c", _SENDING, str(port))
    try:
        channel.send(control.Start(argv, (), (), "agent", "/", wants_terminal=False), [null, null, null])
        channel.receive_reply(FLOW_TIMEOUT_S)
    except control.ChannelError as error:
        raise SbxError(f"the session of the drill does not answer: {error}") from error
    finally:
        os.close(null)


def _end(paths: Paths) -> None:
    with contextlib.suppress(SbxError):  # broken on purpose: whatever its trail or policy say now
        starting.stop(paths, NAME, circumstances.actor())


def _egress_of(session: int) -> int:
    children = Path(f"/proc/{session}/task/{session}/children").read_text("ascii").split()
    for child in map(int, children):
        if EGRESS_PROGRAM.encode() in Path(f"/proc/{child}/cmdline").read_bytes():
            return child
    raise SbxError("the drill's sandbox has no egress process", hint="nothing of it could have got out")


def _kill_egress(scene: Scene) -> None:
    os.kill(scene.egress, signal.SIGKILL)
    _wait(lambda: presence.look(scene.folder).status is not Status.RUNNING)


def _kill_session(scene: Scene) -> None:
    os.kill(scene.session, signal.SIGKILL)
    _wait(lambda: not _is_alive(scene.egress))


def _stop_egress(scene: Scene) -> None:
    os.kill(scene.egress, signal.SIGSTOP)


def _break_store(scene: Scene) -> None:
    for suffix in ("", "-wal", "-shm"):
        path = scene.paths.database.with_name(scene.paths.database.name + suffix)
        if path.exists():
            path.write_bytes(b"no database any more" * 1000)
    (applied,) = policies.apply_now(scene.paths, [NAME])
    if applied.problem is not None:
        raise OSError(applied.problem)


def _fill_disk(scene: Scene) -> None:
    """Let no file of the session and of egress grow any more, as on a full disk (setrlimit(2), RLIMIT_FSIZE)."""
    size = scene.paths.trail(NAME).stat().st_size
    for process in (scene.session, scene.egress):
        _, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
        resource.prlimit(process, resource.RLIMIT_FSIZE, (size, hard))


def _is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")  # ended, and nobody has asked how (proc_pid_stat(5))


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + FAULT_TIMEOUT_S
    while not condition():
        if time.monotonic() >= deadline:
            raise TimeoutError("it did not take hold in time")
        time.sleep(POLL_S)


FAULTS: Final = (
    Fault("egress-killed", "kill egress", _kill_egress),
    Fault("egress-stopped", "stop egress, as a debugger does", _stop_egress),
    Fault("session-killed", "kill the session", _kill_session),
    Fault("policy-broken", "break the policy's database and apply it", _break_store),
    Fault("disk-full", "let the audit trail grow no more", _fill_disk),
)
