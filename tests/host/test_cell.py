"""A cell on the real kernel, as root and as an ordinary user: what lies inside, what lasts, and how it ends."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.host.conftest import OpenCell, Person
    from tests.isolation import Kind

GONE_S = 20.0


def _host_processes(marker: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if marker.encode() in words:
                found.append(entry.name)
    return found


def _await_processes(marker: str, count: int) -> None:
    deadline = time.monotonic() + GONE_S
    while len(_host_processes(marker)) != count:
        assert time.monotonic() < deadline, f"there are not {count} processes"
        time.sleep(0.01)


@pytest.mark.namespaces_only("root of a guest has every right over its own kernel")
def test_commands_run_as_who_was_asked_for(cell: OpenCell) -> None:
    """The agent is user 1000 without a capability; root inside has those of package installation and no other."""
    assert cell.run("id", "-u") == (0, "1000\n")
    assert cell.run("id", "-u", user="root") == (0, "0\n")
    capabilities = "grep -h ^Cap /proc/self/status | cut -f2 | tr '\\n' ' '"
    assert cell.run("sh", "-c", capabilities)[1].split() == ["0" * 16] * 3 + ["00000000a00005fb", "0" * 16]
    assert cell.run("sh", "-c", capabilities, user="root")[1].split() == [
        "0" * 16, *["00000000a00005fb"] * 3, "0" * 16
    ]  # fmt: skip


def test_a_workspace_is_the_hosts_folder_with_its_owner(person: Person, cell: OpenCell, isolation: Kind) -> None:
    """What the agent writes belongs to the folder's owner on the host; what root inside writes to nobody there, or in a
    machine to that owner too."""
    work = person.home / "work"
    (work / "from-host").write_text("hello")
    os.chown(work / "from-host", person.uid, person.uid)
    assert cell.run("sh", "-c", "cat from-host; echo back > from-agent", folder=str(work)) == (0, "hello")
    assert cell.run("sh", "-c", "touch from-root", user="root", folder=str(work)) == (0, "")
    assert (work / "from-agent").stat().st_uid == person.uid
    owner = (work / "from-root").stat().st_uid
    assert owner == person.uid if isolation.is_microvm else owner not in (0, person.uid)
    assert owner >= 65536 or isolation.is_microvm


def test_a_read_only_folder_stays_as_it_is(person: Person, of_kind: dict[str, object]) -> None:
    """No user inside writes to a read-only folder, nor changes a mode there."""
    folder = person.folder("looked-at")
    (folder / "file").write_text("same")
    opened = person.start(mounts=[[str(folder), True]], **of_kind)
    try:
        for user in ("agent", "root"):
            status, output = opened.run("sh", "-c", "echo x > file || chmod 777 .", user=user, folder=str(folder))
            assert status != 0
            assert "Read-only file system" in output
    finally:
        opened.close()
    assert (folder / "file").read_text() == "same"


@pytest.mark.parametrize("parent", ["home", "tmp"])
def test_nothing_else_of_a_workspaces_parents_is_visible(person: Person, tmp_path: Path, parent: str) -> None:
    """A folder next to a workspace does not exist inside, and the parents above are empty but for it."""
    above = person.folder("above") if parent == "home" else tmp_path
    (above / "secret").write_text("sbx-file-canary")
    work = above / "work"
    work.mkdir()
    os.chown(work, person.uid, person.uid)
    if parent == "tmp" and person.kind != "root":
        for folder in [above, *above.parents]:
            if folder != Path("/tmp"):
                folder.chmod(folder.stat().st_mode | 0o111)
            else:
                break
    opened = person.start(mounts=[[str(work), False]])
    try:
        assert opened.run("ls", "-A", str(above)) == (0, "work\n")
        assert opened.run("cat", str(above / "secret"), user="root")[0] == 1
        assert opened.run("sh", "-c", "echo ok > new", folder=str(work))[0] == 0
    finally:
        opened.close()
    assert (work / "new").read_text() == "ok\n"


@pytest.mark.namespaces_only(
    "a guest has the devices and processes of its own kernel; `tests/escape` has what it sees of the host"
)
def test_nothing_of_the_host_is_inside(person: Person, cell: OpenCell) -> None:
    """No file, variable, process, descriptor, path or name of the host is seen by anybody inside."""
    for user in ("agent", "root"):
        status, output = cell.run("sh", "-c", "ls -A /root /home /var /srv /mnt /media 2>/dev/null; true", user=user)
        assert not {"sbx-file-canary", "layer", ".ssh", ".bashrc"} & set(output.split())
        assert status == 0
        status, output = cell.run("sh", "-c", "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline", user=user)
        assert "sbx-environment-canary" not in output
        assert str(person.library) not in output
        status, output = cell.run("sh", "-c", "cat /proc/[0-9]*/mountinfo", user=user)
        assert status == 0 or "Permission denied" in output
        assert str(person.home / "layer") not in output
        status, output = cell.run("sh", "-c", "ls /proc/self/fd | tr '\\n' ' '", user=user)
        assert output.split() == ["0", "1", "2", "3"]  # 3 is the listing's own
        status, output = cell.run("sh", "-c", "ls -d /proc/[0-9]*", user=user)
        assert len(output.split()) <= 3  # process 1, the shell, the listing
        for path in ("/etc/shadow-", "/etc/ssh", "/etc/ssl/private", "/proc/1/root", "/proc/1/fd/0"):
            assert cell.run("ls", path, user=user)[0] != 0, path
    assert cell.run("hostname")[1] == "trial\n"
    assert cell.run("sh", "-c", "ls /sys | wc -l")[1] == "0\n"
    devices = "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert cell.run("ls", "/dev")[1].split() == devices.split()


def test_the_environment_is_exactly_what_was_given(cell: OpenCell) -> None:
    """A command has the variables of its order and no other."""
    status, output = cell.run("env")
    assert status == 0
    assert sorted(line.partition("=")[0] for line in output.splitlines()) == ["HOME", "PATH", "TERM"]


def test_the_layer_lasts(person: Person, of_kind: dict[str, object]) -> None:
    """What is written outside a workspace is there in the next run, and not on the host."""
    first = person.start(**of_kind)
    try:
        script = "echo kept > /opt/sbx-kept && echo kept > /home/agent/kept"
        assert first.run("sh", "-c", script, user="root")[0] == 0
    finally:
        first.close()
    assert not Path("/opt/sbx-kept").exists()
    second = person.start(**of_kind)
    try:
        assert second.run("cat", "/opt/sbx-kept", "/home/agent/kept", user="root") == (0, "kept\nkept\n")
        assert second.run("sh", "-c", "ls -A /tmp | wc -l") == (0, "0\n")
    finally:
        second.close()


def test_a_link_left_in_the_layer_leads_nowhere_outside(person: Person) -> None:
    """A folder that an earlier run replaced by a link is refused, and nothing is made where the link leads."""
    work = person.folder("work")
    target = person.folder("target")
    first = person.start()
    try:
        # The parent of the workspace, on the sandbox's own root, becomes a link to a folder of the host.
        link = f"mkdir -p {work.parent.parent} && ln -s {target} {work.parent}"
        assert first.run("sh", "-c", link, user="root")[0] == 0
    finally:
        first.close()
    with pytest.raises(OSError, match="no folder any more"):
        person.start(mounts=[[str(work), False]])
    assert list(target.iterdir()) == []


def test_injected_files_stand_read_only_over_what_a_link_leads_to(person: Person) -> None:
    """A file given at a link's place stands over the link's target, and nobody inside changes it."""
    first = person.start()
    try:
        script = "rm -f /etc/resolv.conf; ln -s ../run/stub/resolv.conf /etc/resolv.conf"
        assert first.run("sh", "-c", script, user="root") == (0, "")
    finally:
        first.close()
    second = person.start(files=[["/etc/resolv.conf", "nameserver 10.200.0.1\n"]])
    try:
        assert second.run("cat", "/etc/resolv.conf", "/run/stub/resolv.conf")[1] == "nameserver 10.200.0.1\n" * 2
        assert second.run("sh", "-c", "echo x >> /etc/resolv.conf", user="root")[0] != 0
    finally:
        second.close()


ENDINGS = {
    "an exit status is passed on": (["sh", "-c", "exit 7"], "/", 0, 7),
    "a signal is 128 and its number": (["sh", "-c", "kill -9 $$"], "/", 0, 137),
    "a signal of the session arrives": (["sleep", "600"], "/", signal.SIGTERM, 143),
    "a program that does not exist is 127": (["no-such-program"], "/", 0, 127),
    "a file that is no program is 126": (["/etc/passwd"], "/", 0, 126),
    "a folder that does not exist is 127": (["true"], "/no/such/folder", 0, 127),
}


@pytest.mark.parametrize(("argv", "folder", "signum", "status"), ENDINGS.values(), ids=ENDINGS.keys())
def test_how_a_command_ends(cell: OpenCell, argv: list[str], folder: str, signum: int, status: int) -> None:
    """The session learns how a command ended."""
    assert cell.run(*argv, folder=folder, signum=signum)[0] == status


def test_a_terminal_is_the_commands_own(cell: OpenCell) -> None:
    """A terminal has the size it was made with, follows a resize, and belongs to the agent."""
    script = "stty size; stat -c %U $(tty); echo ready; read line; stty size; echo got $line; exit 5"
    answer = cell.ask(do="terminal", argv=["sh", "-c", script], resize=[40, 50])
    assert answer["status"] == 5
    assert answer["output"].replace("\r", "").split() == [
        "33",
        "101",
        "agent",
        "ready",
        "typed",
        "40",
        "50",
        "got",
        "typed",
    ]


@pytest.mark.namespaces_only("root of a guest may break its process 1: `tests/escape/test_guests.py` has what follows")
def test_process_1_cannot_be_ended_or_entered(cell: OpenCell) -> None:
    """No signal of anybody inside reaches process 1, nobody traces it, and commands still start afterwards."""
    for user in ("agent", "root"):
        for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGSTOP, signal.SIGUSR1, signal.SIGCHLD):
            cell.run("kill", f"-{int(number)}", "1", user=user)
        attach = "import ctypes; l=ctypes.CDLL(None,use_errno=True); print(l.ptrace(16,1,0,0), ctypes.get_errno())"
        assert cell.python(attach, user=user) == "-1 1"
    assert cell.run("echo", "alive") == (0, "alive\n")


def test_killing_leaves_no_process(person: Person) -> None:
    """`kill()` returns when every process inside is gone, whoever its parent was, and may be called again."""
    marker = f"9{os.getpid()}71"
    opened = person.start()
    try:
        opened.ask(do="leave", argv=["sh", "-c", f"setsid sleep {marker} & exec sleep {marker}"])
        _await_processes(marker, 2)
        assert opened.ask(do="kill") == {"events": 0}
        assert _host_processes(marker) == []
    finally:
        opened.process.kill()
        opened.close()


def test_a_session_that_is_killed_takes_everything_with_it(person: Person) -> None:
    """After SIGKILL of the owner no process of the cell is left."""
    marker = f"9{os.getpid()}72"
    opened = person.start()
    opened.ask(do="leave", argv=["sh", "-c", f"setsid sleep {marker} & exec sleep {marker}"])
    _await_processes(marker, 2)
    opened.process.kill()
    opened.close()
    _await_processes(marker, 0)


FORK = """
import os, signal
os.close(os.open("/home/agent/full", os.O_CREAT | os.O_WRONLY, 0o755))
children = []
try:
    while len(children) < 2000:
        child = os.fork()
        if child == 0:
            signal.pause()
        children.append(child)
except BlockingIOError:
    print(len(children))
    try:
        os.chmod("/home/agent/full", 0o4755)  # its answer needs a process too
    except BlockingIOError:
        pass
for child in children:
    os.kill(child, signal.SIGKILL)
for child in children:
    os.waitpid(child, 0)  # killed is not gone: what nobody has looked after yet counts against the limit
"""


def test_processes_are_limited(person: Person) -> None:
    """No more processes than the limit can be made, and the cell works on when they are gone."""
    opened = person.start(pids=40)
    try:
        made = opened.python(FORK)
        if not made and any("Linux 6.14" in note for note in opened.notes):
            pytest.skip("neither a control group nor a limit on process numbers here; the cell says so")
        assert 0 < int(made) <= 40 + 301
        assert opened.run("echo", "alive") == (0, "alive\n")
    finally:
        opened.close()


def test_memory_beyond_the_limit_ends_the_command_only(person: Person) -> None:
    """A command that takes more memory than the sandbox has is killed; the cell and the host go on."""
    opened = person.start(memory=128 << 20)
    try:
        if any("memory is not limited" in note for note in opened.notes):
            assert person.kind != "root" or not os.access("/sys/fs/cgroup", os.W_OK)
            pytest.skip("no control group can be made by this user on this machine; the cell says so")
        assert opened.run("/usr/bin/python3", "-I", "-c", "x = bytearray(512 << 20)")[0] == 137
        assert opened.run("echo", "alive") == (0, "alive\n")
    finally:
        opened.close()


def test_without_subordinate_ids_there_is_an_agent_and_no_root(lonely: Person) -> None:
    """A user without subordinate ids gets a cell with one user in it, where nothing gains rights, and is told."""
    work = lonely.folder("work")
    opened = lonely.start(mounts=[[str(work), False]])
    try:
        assert any("no root" in note and "/etc/subuid" in note for note in opened.notes)
        assert opened.run("id", "-u") == (0, "1000\n")
        status = opened.run("grep", "-h", "-e", "NoNewPrivs", "-e", "CapBnd", "/proc/self/status")[1].split()
        assert status == ["CapBnd:", "0" * 16, "NoNewPrivs:", "1"]
        assert opened.run("touch", "made", folder=str(work))[0] == 0
        assert opened.run("ip", "route", "del", "default")[0] != 0
    finally:
        opened.close()
    assert (work / "made").stat().st_uid == lonely.uid
    subprocess.run(["chown", "-R", str(lonely.uid), str(lonely.home)], check=True)
    assert stat.S_ISDIR(work.stat().st_mode)
