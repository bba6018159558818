"""The session: the process on the host that owns one running sandbox, from its lock to its last record.

Things are opened in one order and closed in the reverse: lock, trail, cell (nothing runs in it yet), egress on its
sockets (its process was started before the cell, so that both get ready at once), record of the start, control socket;
then commands may start inside. Whether the authority can be used is found out meanwhile, and known before that.

However it ends, egress is cut first, then every process inside ends, then the end is on record. If the session is
killed, the kernel closes the descriptors that egress and the cell live by.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sandhold.agents.definitions import load_agent
from sandhold.cell.images.templates import find_template
from sandhold.cell.layout import LAYER_FOLDER
from sandhold.cell.namespaces import open_cell
from sandhold.cell.spec import CellSpec
from sandhold.errors import EXIT_NOT_HELD, SbxError
from sandhold.linux.syscalls import trim_heap
from sandhold.model.event import SessionStarted, SessionStopped
from sandhold.model.rule import Generation
from sandhold.model.sandbox import Isolation
from sandhold.session import control, presence
from sandhold.session.anchoring import anchor_end
from sandhold.session.children.authority import AuthorityCheck
from sandhold.session.children.egress_process import EgressProcess
from sandhold.session.children.egress_trial import ask_egress
from sandhold.session.circumstances import CLOCK, actor
from sandhold.session.ends import forget_word, leave_word
from sandhold.session.furnish import inside
from sandhold.session.furnish.furnishing import furnish
from sandhold.session.furnish.trust import written_certificate
from sandhold.session.loose_ends import DropCounter, Switches, kept_listeners, unaccepted
from sandhold.session.recovery import ends_of_lost, recover
from sandhold.session.serving import Serving, serve
from sandhold.session.workspace.branch_folder import may_have_branch
from sandhold.session.workspace.guarding import Guarding
from sandhold.session.workspace.protection import changed_since, forget_baseline, protect, write_baseline
from sandhold.store import sandboxes
from sandhold.store.audit import Trail
from sandhold.store.database import read_only
from sandhold.store.event_ids import new_event_id
from sandhold.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandhold.agents.parsing import Agent
    from sandhold.cell.spec import Cell, InjectedFile
    from sandhold.linux.process import Spawn
    from sandhold.model.event import Event
    from sandhold.model.sandbox import Sandbox
    from sandhold.paths import Paths


def run_session(paths: Paths, name: str, spawn: Spawn, say_ready: Callable[[], None]) -> None:
    """Own sandbox `name` from here to its end; `say_ready` is called once commands can be started in it.

    `spawn` starts the helpers.

    Raises:
        presence.AlreadyHeldError: when another session owns it.
        SbxError: when the sandbox cannot be held; nothing runs and nothing is reachable then.
    """
    folder = paths.sandbox(name)
    with ExitStack() as stack:
        stack.enter_context(presence.hold(folder))
        authority = stack.enter_context(AuthorityCheck.start(spawn, paths.authority))
        with contextlib.closing(read_only(paths.database)) as database:
            sandbox = sandboxes.get(database, name)
        agent = load_agent(sandbox.agent, paths.agents)
        lost = presence.look(folder).marker
        if lost is not None:
            recover(paths, name, lost, os.environ)
        session = str(new_event_id(CLOCK.now()))
        trail = stack.enter_context(Trail.open(paths.trail(name), name, session, CLOCK))
        wake = stack.enter_context(_stop_signals())
        _check_folders(sandbox)
        egress = stack.enter_context(EgressProcess.start(spawn, paths, name, session, os.environ))
        certificate = written_certificate(paths.authority) or authority.certificate()
        spec, unguarded = _guarded(_cell_spec(paths, sandbox, certificate), sandbox, folder)
        guarding = stack.enter_context(Guarding(spec.guarded, print_log))
        cell = stack.enter_context(_open_cell(paths, sandbox, spec, spawn))
        del spec  # a megabyte of files that stand in the cell by now
        stack.callback(egress.stop)
        egress.listen(cell)
        drops = DropCounter(cell, trail, print_log)
        switches = Switches(trail, lambda after: _mark(folder, session, after), print_log)
        authority.confirm(certificate)
        generation = egress.wait_ready()
        ask_egress(cell.sockets.asker)
        _furnish(cell, sandbox, agent)
        listener = stack.enter_context(control.Listener(folder))
        serving = Serving(
            sandbox=sandbox,
            agent=agent,
            session=session,
            cell=cell,
            egress=egress,
            listener=listener,
            generation=generation,
            notes=(*cell.notes, *unguarded),
            guarding=guarding.serve(cell.mounts),
            switched=switches.record,
            count_dropped=lambda: switches.retry() | drops.record(),
        )
        forget_word(folder)
        _record_start(folder, trail, presence.Marker(session, os.getpid(), generation, time.time()), sandbox)
        _give_back_memory()
        say_ready()
        try:
            serve(serving, wake)
        finally:
            missing = _end(serving, paths.trail(name))
            _stopped(paths, folder, trail, serving, missing)


def _give_back_memory() -> None:
    """Let the kernel have what only the start needed."""
    gc.collect()
    trim_heap()


def _end(serving: Serving, trail: Path) -> list[Event]:
    """Cut the network, then end every process inside; returns what neither egress nor the cell has put on record."""
    is_complete = serving.egress.stop()
    serving.count_dropped()
    listeners = kept_listeners(serving.cell.sockets.tcp)
    serving.cell.kill()
    missing = unaccepted(listeners, serving.generation)
    return missing if is_complete else [*missing, *ends_of_lost(trail, serving.session)]


def print_log(text: str) -> None:
    """Write a line into the session's own log, which is this process's standard error."""
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n")
    sys.stderr.flush()


def _open_cell(paths: Paths, sandbox: Sandbox, spec: CellSpec, spawn: Spawn) -> Cell:
    """Make the cell, of the sandbox's kind."""
    if sandbox.isolation is Isolation.NAMESPACES:
        return open_cell(spec, spawn)
    from sandhold.session.machines import open_machine  # noqa: PLC0415  two megabytes that only a machine needs

    return open_machine(paths, sandbox, spec, spawn, print_log)


def _furnish(cell: Cell, sandbox: Sandbox, agent: Agent) -> None:
    """Place the agent's files in its home; it can work without them."""
    problem = furnish(cell, sandbox, agent)
    if problem is not None:
        print_log(f"the agent's files could not be placed in the home: {problem}")


def _check_folders(sandbox: Sandbox) -> None:
    """Say which folder is not what it was when the sandbox was created; the cell checks again and holds on to it.

    Raises:
        SbxError: when one is gone, or a link or a file stands in its place.
    """
    for mount in sandbox.mounts:
        path = Path(mount.path)
        if not path.is_dir() or path.resolve() != path:
            raise SbxError(
                f"the folder `{path}` of this sandbox is gone, or something else stands in its place",
                hint=f"put it back, or delete the sandbox: `sbx rm {sandbox.name}`",
                status=EXIT_NOT_HELD,
            )


def _cell_spec(paths: Paths, sandbox: Sandbox, certificate: bytes) -> CellSpec:
    template = find_template(paths.templates, sandbox.template)
    found = inside.prepare(sandbox.name, template, certificate, os.environ)
    return CellSpec(
        name=sandbox.name,
        template=template,
        layer=paths.sandbox(sandbox.name) / LAYER_FOLDER,
        mounts=sandbox.mounts,
        files=(*found.files, *_branch_files(paths, sandbox)),
        limits=sandbox.limits,
        slot=sandbox.slot,
        seeds=found.seeds,
    )


def _branch_files(paths: Paths, sandbox: Sandbox) -> tuple[InjectedFile, ...]:
    """Return the files that stand read-only in a sandbox's worktree; none without a branch."""
    if not may_have_branch(str(paths.data), sandbox.name):
        return ()
    from sandhold.session.workspace import branches  # noqa: PLC0415  with git; few sandboxes have a branch

    return branches.files_for_start(paths, sandbox.name)


def _guarded(spec: CellSpec, sandbox: Sandbox, folder: Path) -> tuple[CellSpec, tuple[str, ...]]:
    """Return the cell with what is read-only in its folders, and what cannot be; what they look like is kept."""
    protection = protect(sandbox, [str(file.path) for file in spec.files])
    write_baseline(folder, protection)
    return replace(spec, guarded=protection.guarded), protection.notes


def _record_start(folder: Path, trail: Trail, marker: presence.Marker, sandbox: Sandbox) -> None:
    presence.write_marker(folder, marker)
    try:
        trail.append([_started(sandbox, Generation(marker.generation))])
    except OSError:
        presence.remove_marker(folder)  # what never started is not lost
        raise


def _started(sandbox: Sandbox, generation: Generation) -> Event:
    return SessionStarted(
        event=new_event_id(CLOCK.now()),
        actor=actor(),
        agent=sandbox.agent,
        isolation=sandbox.isolation.value,
        template=sandbox.template,
        generation=generation,
        version=VERSION,
    )


def _mark(folder: Path, session: str, generation: Generation) -> None:
    """Note in the marker which generation egress took over already."""
    try:
        marker = presence.look(folder).marker
        started_at = marker.started_at if marker is not None else CLOCK.now()
        presence.write_marker(folder, presence.Marker(session, os.getpid(), generation, started_at))
    except OSError as error:
        print_log(f"the switch to generation {generation} could not be noted: {error}")


def _stopped(paths: Paths, folder: Path, trail: Trail, serving: Serving, missing: list[Event]) -> None:
    """Put the end on record, behind what egress left open, and let go of the marker; without the record, the next
    command finds the sandbox lost."""
    reason = serving.ended or "crashed"
    if serving.detail is not None:
        print_log(f"the sandbox ended by itself: {serving.detail}")
        leave_word(folder, serving.detail)
    changed = changed_since(folder, new_event_id(CLOCK.now()))
    changes = [] if changed is None else [changed]
    try:
        trail.append(
            [*missing, *changes, SessionStopped(new_event_id(CLOCK.now()), reason, serving.actor, serving.detail)]
        )
    except OSError as error:
        print_log(f"the end of the session could not be recorded: {error}")
        return
    presence.remove_marker(folder)
    forget_baseline(folder)
    problem = anchor_end(paths, trail, serving.sandbox.name, os.environ)
    if problem is not None:
        print_log(f"the head of the trail could not be kept outside: {problem}")


@contextlib.contextmanager
def _stop_signals() -> Iterator[int]:
    """Turn the signals that ask a process to stop into a readable descriptor."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(-1)
        os.close(reader)
        os.close(writer)
