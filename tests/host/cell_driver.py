"""A program that opens one cell and does what its standard input says, so that a test can be any user of the host.

Each line in is a JSON object with `do`; each line out is its answer. It imports nothing but the package under test.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import termios
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from sandhold.cell.boot.boot_files import BootFiles
from sandhold.cell.machine.microvm import MicrovmCell, open_microvm
from sandhold.cell.machine.parts import shape_of
from sandhold.cell.machine.qemu import Acceleration
from sandhold.cell.namespaces import NamespacesCell, open_cell
from sandhold.cell.spec import (
    CellDied,
    CellSpec,
    Command,
    Exited,
    InjectedFile,
    Started,
    Template,
    TemplateKind,
    TerminalReady,
)
from sandhold.linux.netns import original_destination
from sandhold.linux.process import spawn_module
from sandhold.model.sandbox import Limits, Mount

if TYPE_CHECKING:
    from sandhold.cell.spec import CellEvent

WAIT_S = 60.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def main() -> None:
    """Open the cell that the first line describes, then answer line by line until the input ends."""
    order = json.loads(sys.stdin.readline())
    try:
        cell = _open(order)
    except (OSError, ValueError) as error:
        _say({"failed": str(error)})
        return
    with cell:
        _say({"notes": cell.notes})
        for line in sys.stdin:
            request = json.loads(line)
            _say(globals()[f"do_{request.pop('do')}"](cell, **request))
    _say({"killed": True})


def do_run(
    cell: NamespacesCell | MicrovmCell, argv: list[str], user: str = "agent", folder: str = "/", signum: int = 0
) -> dict[str, Any]:
    """Run a command to its end, with a signal as soon as it has started if there is one."""
    read, write = os.pipe()
    null = os.open(os.devnull, os.O_RDONLY)
    command = cell.start(_command(argv, user, folder), (null, write, write))
    os.close(write)
    os.close(null)
    output = b""
    ended: Exited | None = None
    is_open = True
    while ended is None or is_open:
        ready, _, _ = select.select([cell.fileno(), read] if is_open else [cell.fileno()], [], [], WAIT_S)
        if not ready:
            return {"status": None, "output": output.decode("utf-8", "replace"), "detail": "no end"}
        if read in ready:
            data = os.read(read, 65536)
            output += data
            is_open = bool(data)
        for event in cell.events() if cell.fileno() in ready else []:
            if isinstance(event, Started) and signum:
                cell.signal(command, signum)
            ended = _ended(event) or ended
    os.close(read)
    return {"status": ended.status, "output": output.decode("utf-8", "replace"), "detail": ended.detail}


def do_terminal(cell: NamespacesCell | MicrovmCell, argv: list[str], resize: list[int]) -> dict[str, Any]:
    """Run a command on a terminal; resize it and type a line as soon as it says `ready`."""
    cell.start(_command(argv, "agent", "/"), None)
    master = -1
    output = b""
    ended: Exited | None = None
    is_typed = False
    while ended is None:
        ready, _, _ = select.select([cell.fileno(), master] if master >= 0 else [cell.fileno()], [], [], WAIT_S)
        if not ready:
            break
        if master in ready:
            output += _read_terminal(master)
        if b"ready" in output and not is_typed:
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("=HHHH", *resize, 0, 0))
            os.write(master, b"typed\n")
            is_typed = True
        for event in cell.events() if cell.fileno() in ready else []:
            if isinstance(event, TerminalReady):
                master = event.master
            ended = _ended(event) or ended
    if master >= 0:
        while rest := _read_terminal(master):
            output += rest
        os.close(master)
    return {"status": ended.status if ended else None, "output": output.decode("utf-8", "replace")}


def do_leave(cell: NamespacesCell | MicrovmCell, argv: list[str]) -> dict[str, Any]:
    """Start a command and leave it running; answer once it has started."""
    null = os.open(os.devnull, os.O_RDWR)
    cell.start(_command(argv, "agent", "/"), (null, null, null))
    os.close(null)
    while select.select([cell], [], [], WAIT_S)[0]:
        for event in cell.events():
            if isinstance(event, Started):
                return {"pid": event.pid}
            _ended(event)
    return {}


def do_captured(cell: NamespacesCell | MicrovmCell) -> list[list[Any]]:
    """Take every connection that waits: which listener has it, and where it was really headed."""
    found: list[list[Any]] = []
    for kind, listeners in (("tcp", cell.sockets.tcp), ("dns", cell.sockets.dns_tcp)):
        for listener in listeners:
            while select.select([listener], [], [], 0)[0]:
                connection, _ = listener.accept()
                with connection:
                    address, port = original_destination(connection)
                    found.append([kind, str(address), port])
    return found


def do_owners(cell: NamespacesCell | MicrovmCell, argv: list[str], user: str = "agent") -> dict[str, Any]:
    """Run a command to its end and tell whose each connection was that it made."""
    null = os.open(os.devnull, os.O_RDWR)
    command = cell.start(_command(argv, user, "/"), (null, null, null))
    os.close(null)
    found: list[list[Any]] = []
    while True:
        ready, _, _ = select.select([cell.fileno(), *(one.fileno() for one in cell.sockets.tcp)], [], [], WAIT_S)
        if not ready or cell.owners is None:
            return {"status": None, "found": found}
        for listener in cell.sockets.tcp:
            if listener.fileno() in ready:
                connection, _ = listener.accept()
                with connection:
                    headed = original_destination(connection)
                    found.append([str(headed[0]), cell.owners.user_of(connection, headed)])
        for event in cell.events() if cell.fileno() in ready else []:
            ended = _ended(event)
            if ended is not None and ended.command == command:
                return {"status": ended.status, "found": found}


def do_answer(cell: NamespacesCell | MicrovmCell, argv: list[str]) -> dict[str, Any]:
    """Run a command and answer its first datagram to a resolver with the same bytes."""
    null = os.open(os.devnull, os.O_RDWR)
    command = cell.start(_command(argv, "agent", "/"), (null, null, null))
    os.close(null)
    asked: list[str] = []
    while True:
        ready, _, _ = select.select([cell.fileno(), *(one.fileno() for one in cell.sockets.dns_udp)], [], [], WAIT_S)
        if not ready:
            return {"status": None, "asked": asked}
        for resolver in cell.sockets.dns_udp:
            if resolver.fileno() in ready:
                data, sender = resolver.recvfrom(512)
                asked.append(data.decode())
                resolver.sendto(data, sender)
        for event in cell.events() if cell.fileno() in ready else []:
            ended = _ended(event)
            if ended is not None and ended.command == command:
                return {"status": ended.status, "asked": asked}


def do_dropped(cell: NamespacesCell | MicrovmCell) -> list[list[Any]]:
    """Tell what went nowhere."""
    return [[one.protocol, str(one.address) if one.address else None, one.port, one.packets] for one in cell.dropped()]


def do_cover(cell: NamespacesCell | MicrovmCell, guards: list[list[Any]]) -> object:
    """Have guards covered again, as a session does; what the process for it says."""
    ours, theirs = socket.socketpair()
    with ours, tempfile.TemporaryFile() as order:
        order.write(json.dumps({"guards": guards}).encode())
        order.seek(0)
        with theirs:
            descriptors = [theirs.fileno(), order.fileno(), *cell.mounts]
            child = spawn_module("sandhold.session.workspace.guards_program", descriptors)
        ours.settimeout(WAIT_S)
        said = json.loads(ours.recv(4096))
    child.wait(WAIT_S)
    return said


def do_kill(cell: NamespacesCell | MicrovmCell) -> dict[str, Any]:
    """Kill the cell, twice."""
    cell.kill()
    cell.kill()
    return {"events": len(cell.events())}


def _open(order: dict[str, Any]) -> NamespacesCell | MicrovmCell:
    """Open a cell of namespaces; with `boot`, the paths of what a machine boots from, an emulated machine."""
    spec = _spec(order)
    if "boot" not in order:
        return open_cell(spec)
    kernel, initramfs, root_image = map(Path, order["boot"])
    return open_microvm(spec, BootFiles(kernel, initramfs, root_image, "trial"), shape_of(spec, Acceleration.TCG))


def _spec(order: dict[str, Any]) -> CellSpec:
    return CellSpec(
        name=order.get("name", "trial"),
        template=Template(
            TemplateKind(order.get("kind", "host")),
            Path(order.get("root", "/")),
            tuple(map(Path, order.get("layers", ()))),
        ),
        layer=Path(order["layer"]),
        mounts=tuple(Mount(PurePosixPath(path), is_read_only) for path, is_read_only in order["mounts"]),
        files=tuple(InjectedFile(PurePosixPath(path), text.encode()) for path, text in order.get("files", ())),
        limits=Limits(order.get("cpus"), order.get("memory"), order.get("pids", 256)),
        slot=order.get("slot", 30_001),
        guarded=tuple(
            Mount(PurePosixPath(path), is_read_only, is_file)
            for path, is_read_only, is_file in order.get("guarded", ())
        ),
    )


def _command(argv: list[str], user: str, folder: str) -> Command:
    environment = (("PATH", PATH), ("HOME", "/home/agent"), ("TERM", "xterm"))
    return Command(tuple(argv), environment, folder, user, rows=33, columns=101)


def _ended(event: CellEvent) -> Exited | None:
    match event:
        case CellDied(detail):
            raise SystemExit(f"the cell died: {detail}")
        case Exited():
            return event
        case Started() | TerminalReady():
            return None


def _read_terminal(master: int) -> bytes:
    """Read what waits; a terminal whose other end is closed has nothing more."""
    try:
        return os.read(master, 4096)
    except OSError:
        return b""


def _say(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    main()
