"""Sandboxes live as long as somebody needs them and leave nothing behind, however they end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.installation import COMMAND_TIMEOUT_S, at_terminal, wait_until
from tests.load import processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.installation import Installation
    from tests.isolation import Kind


@pytest.fixture
def lab(sbx: Installation, project: Path, isolation: Kind) -> Installation:
    """Create a sandbox `lab` of each kind."""
    sbx.ok("create", *isolation.quickest, "--name", "lab", "shell", ".", folder=project)
    return sbx


def status(sbx: Installation, name: str = "lab") -> str:
    """Return what `ls` says of a sandbox."""
    return next(line.split()[2] for line in sbx.ok("ls").splitlines() if line.split()[0] == name)


def session_pid(sbx: Installation, name: str = "lab") -> int:
    """Return the process of a sandbox's session."""
    marker = sbx.state / "sandboxes" / name / "session.json"
    return int(json.loads(marker.read_text())["pid"])


def descendants(pid: int) -> list[int]:
    """Return the processes that a process started, and those they started (proc(5))."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [each for child in children for each in (int(child), *descendants(int(child)))]


def is_gone(pid: int) -> bool:
    """Whether no process has that number, or only one that its parent has not looked after yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.short
def test_what_is_written_inside_lasts(lab: Installation, project: Path) -> None:
    """Stop and run keep what was written outside the workspace too; the workspace is the host's own folder."""
    lab.ok("exec", "lab", "bash", "-c", "echo kept > ~/kept; sudo -n sh -c 'echo kept > /etc/kept'; echo made > made")
    wait_until(lambda: status(lab) == "stopped", "the sandbox stops when its command has ended")
    assert lab.ok("exec", "lab", "bash", "-c", "cat ~/kept /etc/kept") == "kept\nkept\n"
    assert (project / "made").read_text() == "made\n"
    assert (project / "made").stat().st_uid == project.stat().st_uid


def test_a_read_only_folder(sbx: Installation, project: Path, isolation: Kind) -> None:
    """A folder given with `:ro` is seen at its own path and cannot be written, not by root either."""
    extra = sbx.home / "docs"
    extra.mkdir()
    (extra / "page").write_text("read me\n")
    sbx.ok("create", *isolation.quickest, "--name", "lab", "shell", ".", f"{extra}:ro", folder=project)
    for user in ("agent", "root"):
        tried = sbx(
            "exec", "-u", user, "lab", "bash", "-c", f"cat {extra}/page; echo x > {extra}/page; rm {extra}/page"
        )
        assert tried.out == "read me\n"
        assert tried.err.count("Read-only file system") == 2
    assert (extra / "page").read_text() == "read me\n"


EXITS = {
    "success": ("exit 0", 0),
    "a status": ("exit 42", 42),
    "a signal": ("kill -TERM $$", 143),
    "an unknown program": ("exec no-such-program", 127),
}


@pytest.mark.parametrize(("script", "expected"), EXITS.values(), ids=EXITS)
def test_the_exit_status_is_the_commands(lab: Installation, script: str, expected: int) -> None:
    """`exec` exits as the command did."""
    assert lab("exec", "lab", "bash", "-c", script).status == expected


def test_pipes_pass_through(lab: Installation) -> None:
    """Input, output and errors of a command inside are the caller's, byte for byte, with `-i`."""
    text = "".join(f"line {number}\n" for number in range(50_000))
    done = lab("exec", "-i", "lab", "bash", "-c", "cat; echo problem >&2", given=text)
    assert (done.out, done.err, done.status) == (text, "problem\n", 0)
    assert lab("exec", "lab", "cat", given="not passed on").out == ""


@pytest.mark.short
def test_a_terminal(lab: Installation) -> None:
    """A command gets a terminal of the user's size that follows it, Ctrl-C reaches it, Ctrl-D ends it, and the user's
    own terminal is as before."""
    with at_terminal(lab, "run", "lab") as terminal:
        terminal.expect("$ ", COMMAND_TIMEOUT_S)  # a machine that is emulated on a busy host starts in minutes
        terminal.type("stty size; tty\r")
        terminal.expect("24 80")
        terminal.expect("/dev/pts/")
        terminal.resize(40, 120)
        terminal.type("until [ \"$(stty size)\" = '40 120' ]; do sleep 0.05; done; echo re''sized\r")
        terminal.expect("resized")
        terminal.type("sh -c \"echo slee''ping; exec sleep 1000\"\r")  # it speaks once it is in the foreground
        terminal.expect("sleeping")
        terminal.type("\x03")
        terminal.expect("$ ")
        terminal.type("echo after=$?\r")
        terminal.expect("after=130")
        terminal.expect("$ ")
        terminal.type("\x04")
        assert terminal.wait() == 0
    wait_until(lambda: status(lab) == "stopped", "the sandbox stops with its last command")


def test_two_terminals(lab: Installation) -> None:
    """A second terminal attaches to the running sandbox, which lives until the last one leaves."""
    with at_terminal(lab, "run", "lab") as first, at_terminal(lab, "exec", "-t", "-i", "lab", "bash") as second:
        first.type("echo shared > /tmp/shared; echo wri''tten\r")
        first.expect("written")
        second.type("tr a-z A-Z < /tmp/shared\r")
        second.expect("SHARED")
        first.type("exit\r")
        assert first.wait() == 0
        assert status(lab) == "running"
        second.type("rev /tmp/shared\r")
        second.expect("derahs")
        second.type("exit\r")
        second.wait()
    wait_until(lambda: status(lab) == "stopped", "the sandbox stops when nobody is attached")


def test_closing_the_terminal(lab: Installation) -> None:
    """When the window is closed, what ran in it ends, and so does the sandbox."""
    with at_terminal(lab, "run", "lab") as terminal:
        terminal.type("sleep 1000 & echo rea''dy\r")
        terminal.expect("ready")
        children = descendants(session_pid(lab))
        terminal.hang_up()
        wait_until(lambda: status(lab) == "stopped", "the sandbox stops")
    assert all(is_gone(pid) for pid in children)


def test_stop_while_attached(lab: Installation) -> None:
    """Stopping from elsewhere ends the attached command, says so, and puts the terminal back."""
    with at_terminal(lab, "run", "lab") as terminal:
        terminal.type("echo rea''dy\r")
        terminal.expect("ready")
        lab.ok("stop", "lab")
        terminal.expect("the sandbox was stopped")
        assert terminal.wait() == 125


@contextlib.contextmanager
def far_end() -> Iterator[tuple[int, list[socket.socket]]]:
    """Listen on the host's loopback; connections are kept open until the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    accepted: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted.append(listener.accept()[0])

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1], accepted
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for sock in (listener, *accepted):
            sock.close()


@pytest.mark.short
def test_a_killed_session(lab: Installation) -> None:
    """`kill -9` of the session leaves no process and no network; `ls` says lost, nothing on record is lost, and the
    next run works and says what happened."""
    with far_end() as (port, accepted):
        lab.ok("policy", "allow", "network", f"localhost:{port}")
        lab.ok("run", "-d", "lab")
        busy = lab.start("exec", "lab", "python3", "-c", _HOLD.format(port=port))
        wait_until(
            lambda: len(accepted) == 1 and accepted[0].recv(6, socket.MSG_PEEK) == b"hello\n", "the connection is up"
        )
        pid = session_pid(lab)
        children = descendants(pid)
        assert len(children) >= 3
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: all(is_gone(child) for child in children), "every process of the session is gone")
        accepted[0].settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert accepted[0].recv(6) == b"hello\n"
            assert accepted[0].recv(1) == b""
        busy.communicate(timeout=60)
    assert status(lab) == "lost"
    again = lab("exec", "lab", "echo", "back")
    assert (again.status, again.out) == (0, "back\n")
    assert "was killed" in again.err
    kinds = [(record["kind"], record.get("why"), record.get("reason")) for record in lab.records("lab")]
    assert {("closed", "lost", None), ("closed", "session-ended", None)} & set(kinds)
    assert ("session-stopped", None, "lost") in kinds
    assert "unbroken" in lab.ok("policy", "log", "lab", "--verify")


_HOLD = """
import socket, time
sock = socket.create_connection(("host.docker.internal", {port}), 20)
sock.sendall(b"hello\\n")
time.sleep(600)
"""


def test_a_deny_cuts_at_once(lab: Installation) -> None:
    """`--now` with a deny cuts the open connections it covers, and the record of each says why it ended."""
    with far_end() as (port, accepted):
        lab.ok("policy", "allow", "network", f"localhost:{port}")
        lab.ok("run", "-d", "lab")
        busy = lab.start("exec", "lab", "python3", "-c", _HOLD.format(port=port))
        wait_until(lambda: len(accepted) == 1 and accepted[0].recv(6, socket.MSG_PEEK) == b"hello\n", "it is up")
        said = lab("policy", "deny", "network", f"localhost:{port}", "--now")
        assert "1 connections cut" in said.err
        accepted[0].settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert accepted[0].recv(6) == b"hello\n"
            assert accepted[0].recv(1) == b""
        ends = [record["why"] for record in lab.records("lab") if record["kind"] == "closed"]
        assert ends == ["closed_by_policy"]
        lab.ok("stop", "lab")
        busy.communicate(timeout=60)
    switches = [record for record in lab.records("lab") if record["kind"] == "generation-switched"]
    assert [record["cut"] for record in switches] == [1]


def test_a_lost_sandbox_can_be_stopped_and_deleted(lab: Installation) -> None:
    """What a killed session left does not stand in the way of `stop` and `rm`."""
    lab.ok("run", "-d", "lab")
    os.kill(session_pid(lab), signal.SIGKILL)
    wait_until(lambda: status(lab) == "lost", "the sandbox is lost")
    assert "killed" in lab("stop", "lab").err
    assert status(lab) == "stopped"
    lab.ok("rm", "lab")
    assert lab.ok("ls", "-q") == ""
    assert not (lab.state / "sandboxes" / "lab").exists()


def test_egress_that_dies_takes_the_network_along(lab: Installation) -> None:
    """Without its egress process a sandbox has no network, and ends."""
    lab.ok("run", "-d", "lab")
    pids = descendants(session_pid(lab))
    egress = next(pid for pid in pids if b"egress_program" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(egress, signal.SIGKILL)
    wait_until(lambda: status(lab) != "running", "the sandbox ends")
    assert lab.records("lab")[-1]["kind"] == "session-stopped"
    assert lab.records("lab")[-1]["reason"] == "egress-died"
    assert "`lab` ended by itself: its egress process ended" in lab("ls").err
    again = lab("exec", "lab", "echo", "back")
    assert (again.status, again.out) == (0, "back\n")
    assert "before this one ended by itself: its egress process ended" in again.err
    assert "by itself" not in lab("exec", "lab", "true").err


def test_a_deleted_lock_file_hides_no_session(lab: Installation) -> None:
    """Without the lock's file a running sandbox is still running, is not started twice, and stops."""
    lab.ok("run", "-d", "lab")
    (lab.state / "sandboxes" / "lab" / "session.lock").unlink()
    assert status(lab) == "running"
    assert lab("rm", "lab").status == 1
    assert lab.ok("exec", "lab", "echo", "alive") == "alive\n"
    lab.ok("stop", "lab")
    assert status(lab) == "stopped"
    assert [record["kind"] for record in lab.records("lab")].count("session-started") == 1


def test_a_running_sandbox_is_not_deleted(lab: Installation) -> None:
    """`rm` refuses a running sandbox, `rm -f` stops it first."""
    lab.ok("run", "-d", "lab")
    refused = lab("rm", "lab")
    assert (refused.status, status(lab)) == (1, "running")
    assert "rm -f" in refused.err
    lab.ok("rm", "-f", "lab")
    assert lab.ok("ls", "-q") == ""


def test_two_starts_at_once(lab: Installation) -> None:
    """Of two starts at once one makes the session and both get their command."""
    both = [lab.start("exec", "lab", "bash", "-c", f"echo {number}; sleep 1") for number in (1, 2)]
    assert [process.communicate(timeout=120)[0] for process in both] == ["1\n", "2\n"]
    started = [record for record in lab.records("lab") if record["kind"] == "session-started"]
    assert len(started) in (1, 2)
    assert "unbroken" in lab.ok("policy", "log", "lab", "--verify")


def test_a_fork_bomb(lab: Installation) -> None:
    """A fork bomb inside meets the limit of processes, and the sandbox goes on."""
    bomb = """
import os, signal
try:
    while True:
        if os.fork() == 0:
            signal.pause()
except OSError as error:
    print(error.strerror)
"""
    assert lab("exec", "lab", "python3", "-c", bomb).out == "Resource temporarily unavailable\n"
    assert lab.ok("exec", "lab", "echo", "alive") == "alive\n"


def test_a_memory_hog(sbx: Installation, project: Path, isolation: Kind) -> None:
    """What takes more memory than its sandbox has is ended, and only that."""
    sbx.ok("create", *isolation.quickest, "--name", "lab", "--memory", "256m", "shell", ".", folder=project)
    sbx.ok("run", "-d", "lab")
    session = session_pid(sbx)
    hog = sbx("exec", "lab", "python3", "-c", "x = bytearray(1 << 30); x[::4096] = b'x' * (1 << 18); print(len(x))")
    assert "1073741824" not in hog.out
    assert hog.status in (1, 137)
    assert sbx.ok("exec", "lab", "echo", "alive") == "alive\n"
    assert session_pid(sbx) == session


def test_many_at_once(sbx: Installation, project: Path, isolation: Kind) -> None:
    """Twenty sandboxes run at once (three emulated machines), each answers with its own name, and all stop."""
    names = [f"s{number}" for number in range(3 if isolation.is_microvm else 20)]
    for name in names:
        sbx.ok("create", *isolation.quickest, "--name", name, "shell", ".", folder=project)
        sbx.ok("run", "-d", name)
    assert [line.split()[2] for line in sbx.ok("ls").splitlines()[1:]] == ["running"] * len(names)
    for name in names:
        assert sbx.ok("exec", name, "hostname") == f"{name}\n"
    sbx.ok("stop", *names)
    assert [line.split()[2] for line in sbx.ok("ls").splitlines()[1:]] == ["stopped"] * len(names)


def test_a_thousand_connections_at_once(lab: Installation) -> None:
    """A thousand connections at once through one sandbox: each arrives, each is on record with its end."""
    with far_end() as (port, accepted):
        lab.ok("policy", "allow", "network", f"localhost:{port}")
        code = (
            "import resource, socket, sys\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
            f"socks = [socket.create_connection(('host.docker.internal', {port}), 60) for _ in range(1000)]\n"
            "[sock.sendall(b'hello\\n') for sock in socks]\n"
            "sys.stdin.read(1)\n"
            "print(len(socks))\n"
        )
        process = lab.start("exec", "-i", "lab", "python3", "-c", code)
        wait_until(lambda: len(accepted) == 1000, "a thousand connections arrived", 120)
        for sock in list(accepted):
            sock.settimeout(60)
            assert sock.recv(6) == b"hello\n"
        assert process.communicate("x", timeout=120)[0].endswith("1000\n")
    wait_until(lambda: status(lab) == "stopped", "the sandbox stops")
    records = lab.records("lab")
    allowed = {
        record["event"] for record in records if record["kind"] == "connection" and record["decision"] == "allow"
    }
    closed = {record["event"] for record in records if record["kind"] == "closed"}
    assert len(allowed) == 1000
    assert allowed <= closed
    assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
    assert "unbroken" in lab.ok("policy", "log", "lab", "--verify")


def test_a_flood_left_behind(lab: Installation) -> None:
    """A program that a command leaves behind cannot keep `exec` by writing for ever."""
    lab.ok("run", "-d", "lab")
    done = lab("exec", "lab", "bash", "-c", "echo first; yes & exit 3", timeout_s=60)
    assert done.status == 3
    assert done.out.startswith("first\n")


def test_a_stopped_process_1(lab: Installation) -> None:
    """`stop` ends a sandbox whose process 1 was stopped by a signal, and leaves nothing of it."""
    lab.ok("run", "-d", "lab")
    children = descendants(session_pid(lab))
    os.kill(processes.parts(lab, "lab")[processes.FIRST], signal.SIGSTOP)
    lab.ok("stop", "lab")
    assert status(lab) == "stopped"
    assert all(is_gone(pid) for pid in children)


@pytest.mark.namespaces_only("a guest's process 1 is the guest's own, and nothing of the host is in it")
def test_process_1_keeps_its_memory_to_itself(lab: Installation) -> None:
    """Root inside reads nothing of the session that process 1 is a copy of: no memory, variables or words."""
    lab.ok("run", "-d", "lab")
    for name in ("mem", "environ", "maps", "auxv", "syscall"):
        done = lab("exec", "-u", "root", "lab", "head", "-c1", f"/proc/1/{name}")
        assert done.status != 0, name
        assert "Permission denied" in done.err
    assert lab.ok("exec", "-u", "root", "lab", "sh", "-c", "tr -d '\\0' </proc/1/cmdline") == "sbx"


def test_helpers_that_are_done_are_gone(lab: Installation) -> None:
    """What only a start needs leaves no process behind, not even one that waits to be looked after."""
    lab.ok("run", "-d", "lab")
    left = descendants(session_pid(lab))
    states = [Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[0] for pid in left]
    assert "Z" not in states
    assert not any(b"sandhold.cell.launch" in processes.command_line(pid) for pid in left)


@pytest.mark.parametrize("part", [processes.EGRESS, processes.FIRST])
def test_a_killed_part(lab: Installation, part: str) -> None:
    """Whichever part is killed, the others end with it and the end is on record."""
    lab.ok("run", "-d", "lab")
    pid = session_pid(lab)
    children = descendants(pid)
    os.kill(processes.parts(lab, "lab")[part], signal.SIGKILL)
    wait_until(lambda: all(is_gone(each) for each in (pid, *children)), "every part has ended")
    assert lab.records("lab")[-1]["kind"] == "session-stopped"
    assert lab.records("lab")[-1]["reason"] in ("cell-died", "egress-died")


def test_rules_go_with_their_sandbox(lab: Installation) -> None:
    """Deleting a sandbox deletes the rules that were for it alone."""
    lab.ok("policy", "allow", "network", "only-here.test", "--sandbox", "lab")
    assert "only-here.test" in lab.ok("policy", "ls", "--wide")
    lab.ok("rm", "lab")
    assert "only-here.test" not in lab.ok("policy", "ls", "--wide")


def test_a_stopped_egress_and_a_killed_session(lab: Installation) -> None:
    """Egress that was stopped by a signal ends with its killed session all the same."""
    lab.ok("run", "-d", "lab")
    pid = session_pid(lab)
    children = descendants(pid)
    name = b"sandhold.session.children.egress_program"
    egress = next(each for each in children if name in Path(f"/proc/{each}/cmdline").read_bytes())
    os.kill(egress, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all(map(is_gone, children)), "every part has ended")


def test_a_workspace_that_is_gone(lab: Installation, project: Path) -> None:
    """A workspace that was deleted or replaced by a link is not mounted, and the message names it."""
    away = project.with_name("away")
    project.rename(away)
    for is_replaced in (False, True):
        if is_replaced:
            project.symlink_to(away)
        done = lab("exec", "lab", "true")
        assert done.status == 125
        assert f"the folder `{project}`" in done.err
    project.unlink()
    away.rename(project)
    lab.ok("exec", "lab", "true")


def test_arguments_that_are_no_text(lab: Installation) -> None:
    """An argument that is no UTF-8 reaches the program as the bytes it is."""
    shown = lab.ok("exec", "lab", "bash", "-c", 'printf %s "$1" | od -An -c', "bash", "\udcff")
    assert shown.split() == ["377"]
