"""What the kernel refuses to everybody inside a cell, root included."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.host.conftest import OpenCell, Person

pytestmark = pytest.mark.namespaces_only("a guest's kernel is its own: what it grants to root reaches nothing outside")

USERS = ("agent", "root")

PREAMBLE = """
import ctypes, errno, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *words):
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in words]
    result = libc.syscall(ctypes.c_long(number), *words)
    return "done" if result >= 0 else errno.errorcode[ctypes.get_errno()]
def attempt(action):
    try:
        action()
        return "done"
    except OSError as error:
        return errno.errorcode[error.errno]
"""

# The numbers are those of x86_64 below 424 and of every processor above.
CALLS = {
    "a mount": ("call(165, b'none', b'/tmp', b'tmpfs', 0, None)", "EPERM"),
    "a new file system context": ("call(430, b'tmpfs', 0)", "EPERM"),
    "a copied mount": ("call(428, -100, b'/', 1)", "EPERM"),
    "a new user namespace": ("call(272, 0x10000000)", "EPERM"),
    "a new network namespace": ("call(272, 0x40000000)", "EPERM"),
    "a clone with a new namespace": ("call(56, 0x10000000 | 17, 0, 0, 0, 0)", "EPERM"),
    "a clone whose flags no filter can read": ("call(435, b'\\0' * 64, 64)", "ENOSYS"),
    "entering a namespace": ("call(308, os.open('/proc/self/ns/net', 0), 0)", "EPERM"),
    "an io_uring": ("call(425, 8, b'\\0' * 120)", "ENOSYS"),
    "a program for the kernel": ("call(321, 0, b'\\0' * 64, 64)", "EPERM"),
    "the kernel's keys": ("call(250, 0, -3, 0)", "EPERM"),
    "page faults in user hands": ("call(323, 0)", "EPERM"),
    "performance counters": ("call(298, b'\\0' * 128, 0, -1, -1, 0)", "EPERM"),
    "a file by its handle": ("call(304, -100, b'\\0' * 32, 0)", "EPERM"),
    "the clock": ("call(227, 0, b'\\0' * 16)", "EPERM"),
    "a kernel module": ("call(313, 0, b'', 0)", "EPERM"),
    "the host's name": ("call(170, b'x', 1)", "EPERM"),
    "another root folder": ("attempt(lambda: os.chroot('/tmp'))", "EPERM"),
    "a device": ("attempt(lambda: os.mknod('/tmp/device', 0o20666, os.makedev(1, 3)))", "EPERM"),
    "a packet socket": ("attempt(lambda: socket.socket(17, 2))", "EAFNOSUPPORT"),
    "a socket to the hypervisor": ("attempt(lambda: socket.socket(40, 1))", "EAFNOSUPPORT"),
    "a socket of the kernel's ciphers": ("attempt(lambda: socket.socket(38, 5))", "EAFNOSUPPORT"),
    "a raw socket": ("attempt(lambda: socket.socket(2, 3, 1))", "EPERM"),
    "a raw IPv6 socket": ("attempt(lambda: socket.socket(10, 3, 58))", "EPERM"),
    "an SCTP socket": ("attempt(lambda: socket.socket(2, 1, 132))", "EPROTONOSUPPORT"),
    "the firewall's messages": ("attempt(lambda: socket.socket(16, 3, 12))", "EPROTONOSUPPORT"),
    "typing into the terminal": ("attempt(lambda: __import__('fcntl').ioctl(0, 0x5412, b'x'))", "EPERM"),
    "a kernel setting": ("attempt(lambda: open('/proc/sys/kernel/core_pattern', 'w'))", None),
    "a network setting": ("attempt(lambda: open('/proc/sys/net/ipv4/ip_forward', 'w'))", None),
}


@pytest.mark.parametrize("user", USERS)
def test_the_kernel_refuses(cell: OpenCell, user: str) -> None:
    """Each of these fails for the agent and for root inside, with the error that lets programs go on without."""
    code = PREAMBLE + "".join(f"print({expression})\n" for expression, _ in CALLS.values())
    got = dict(zip(CALLS, cell.python(code, user=user).splitlines(), strict=True))
    assert "done" not in got.values(), [name for name, answer in got.items() if answer == "done"]
    wanted = {name: error for name, (_, error) in CALLS.items() if error is not None}
    assert {name: got[name] for name in wanted} == wanted


def test_what_programs_need_is_allowed(cell: OpenCell) -> None:
    """Threads, processes, TCP, UDP, Unix sockets, low ports, the list of interfaces and 127.0.0.1 work."""
    code = """
import socket, threading, subprocess
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        socket.socket(family, kind).close()
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
subprocess.run(["true"], check=True)
socket.create_server(("0.0.0.0", 80)).close()
assert [name for _, name in socket.if_nameindex()] == ["lo"]
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    with socket.socket(family) as listener:
        listener.bind((address, 0)); listener.listen()
        with socket.create_connection(listener.getsockname()[:2], 5) as client, listener.accept()[0] as server:
            client.send(b"local"); assert server.recv(9) == b"local"
"""
    assert cell.python(code) == "thread"


@pytest.mark.parametrize("user", USERS)
def test_the_network_cannot_be_changed(cell: OpenCell, user: str) -> None:
    """Routes, addresses and links stay as they are."""
    before = cell.run("ip", "address", user=user), cell.run("ip", "route", user=user)
    for change in ("route del default", "link set lo down", "address flush dev lo", "link add veth0 type veth"):
        status, output = cell.run("ip", *change.split(), user=user)
        assert status != 0
        assert "not permitted" in output
    assert (cell.run("ip", "address", user=user), cell.run("ip", "route", user=user)) == before


SETID = """
import os
def attempt(action):
    try:
        action()
        return "done"
    except OSError as error:
        return error.strerror
def create(path, mode):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, mode))
create("plain", 0o755)
fd = os.open("plain", os.O_RDONLY)
print(attempt(lambda: create("made", 0o4755)))
print(attempt(lambda: os.mknod("node", 0o104755)))
print(attempt(lambda: os.chmod("plain", 0o4755)))
print(attempt(lambda: os.chmod(os.path.abspath("plain"), 0o2755)))
print(attempt(lambda: os.fchmod(fd, 0o6755)))
print(attempt(lambda: os.chmod("plain", 0o4755, dir_fd=os.open(".", os.O_RDONLY))))
print(attempt(lambda: os.chmod(f"/proc/self/fd/{fd}", 0o4755)))
print(attempt(lambda: os.chmod("plain", 0o700)))
"""


@pytest.mark.parametrize("user", USERS)
def test_no_file_of_a_workspace_gets_a_set_id_bit(person: Person, cell: OpenCell, user: str) -> None:
    """However the bit is asked for in a workspace it is refused; other changes of mode are not."""
    work = person.home / "work"
    answers = cell.python(SETID, user=user, folder=str(work)).splitlines()
    assert [path.name for path in work.iterdir() if path.stat().st_mode & 0o6000] == []
    assert answers[:6] == ["Operation not permitted"] * 6
    assert answers[6] != "done"
    assert answers[7] == "done"


def test_the_cells_own_files_get_set_id_bits_with_their_owners_rights(cell: OpenCell) -> None:
    """Outside workspaces the owner may set the bits, as packages do; another user's file stays closed."""
    for user in USERS:
        code = (
            "import os, tempfile; os.chdir(os.path.expanduser('~') if os.getuid() else '/opt')\n"
            "os.close(os.open('own', os.O_CREAT | os.O_WRONLY, 0o755)); os.chmod('own', 0o4755)\n"
            "print(oct(os.stat('own').st_mode & 0o7777)); os.chmod('own', 0o2755, follow_symlinks=True)\n"
            "print(oct(os.stat('own').st_mode & 0o7777))"
        )
        assert cell.python(code, user=user).split() == ["0o4755", "0o2755"]
    status, output = cell.run("chmod", "4755", "/opt/own")
    assert status == 1
    assert "Operation not permitted" in output
    assert cell.run("chmod", "4755", "/opt/none")[1].strip().endswith("No such file or directory")


def test_a_file_that_moves_under_the_question_stays_closed(person: Person, cell: OpenCell) -> None:
    """A thread that swaps the path for a workspace's file while another asks for the bit gains nothing."""
    work = person.home / "work"
    code = f"""
import os, threading
os.chdir("/home/agent")
for path in ("mine", "{work}/theirs"):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o755))
os.symlink("mine", "name") if not os.path.lexists("name") else None
stop = threading.Event()
def swap():
    while not stop.is_set():
        for target in ("{work}/theirs", "mine"):
            os.symlink(target, "next"); os.rename("next", "name")
thread = threading.Thread(target=swap); thread.start()
for _ in range(60):
    try: os.chmod("name", 0o4755)
    except OSError: pass
stop.set(); thread.join()
"""
    cell.python(code, folder=str(work))
    assert not (work / "theirs").stat().st_mode & 0o6000
