"""Everything that is not a TCP connection or a DNS query goes nowhere, and what the host has is not there inside.

The oracle is what the far end on the host saw; the same attempt made on the host is the control.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.installation import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.installation import Installation
    from tests.isolation import Kind

RUN = "import socket, sys, os, struct\n"

KERNEL_REFUSES = {
    "a raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)",
    "a raw IPv6 socket": "socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)",
    "a packet socket": "socket.socket(17, socket.SOCK_RAW, socket.htons(3))",
    "a datagram packet socket": "socket.socket(17, socket.SOCK_DGRAM, socket.htons(3))",
    "vsock": "socket.socket(40, socket.SOCK_STREAM)",
    "Bluetooth": "socket.socket(31, socket.SOCK_RAW, 1)",
    "the kernel's crypto": "socket.socket(38, socket.SOCK_SEQPACKET)",
    "TIPC": "socket.socket(30, socket.SOCK_STREAM)",
    "CAN": "socket.socket(29, socket.SOCK_RAW, 1)",
    "XDP": "socket.socket(44, socket.SOCK_RAW)",
    "a tunnel device": "os.open('/dev/net/tun', os.O_RDWR)",
    "the virtual machine device": "os.open('/dev/kvm', os.O_RDWR)",
    "a block device": "os.mknod('/tmp/disk', 0o60600, os.makedev(254, 0))",
    "a namespace": "__import__('ctypes').CDLL(None, use_errno=True).unshare(0x40000000) and os.listdir('/nowhere')",
    "a host process": "os.kill({pid}, 0)",
    "the kernel's log": "open('/dev/kmsg')",
    "kernel memory": "open('/proc/kcore', 'rb').read(1)",
    "the emergency keys": "open('/proc/sysrq-trigger', 'w').write('h')",
    "kernel settings": "open('/proc/sys/kernel/core_pattern', 'w').write('x')",
}


@pytest.fixture(scope="module")
def lab(module_sbx: Installation, module_project: Path, isolation: Kind) -> Iterator[Installation]:
    """Run a sandbox of each kind that every test of this file attacks from."""
    module_sbx.ok("create", *isolation.flags, "--name", "lab", "shell", ".", folder=module_project)
    module_sbx.ok("run", "-d", "lab")
    yield module_sbx
    module_sbx.ok("rm", "-f", "lab")


def inside(lab: Installation, code: str, user: str = "root") -> tuple[int, str]:
    """Run Python inside; returns its status and all it said."""
    done = lab("exec", "-u", user, "lab", "python3", "-c", RUN + code)
    return done.status, done.out + done.err


@pytest.mark.namespaces_only("a guest's kernel is its own: `test_guests.py` has what root may not do with that")
@pytest.mark.parametrize("code", KERNEL_REFUSES.values(), ids=KERNEL_REFUSES)
def test_the_kernel_refuses(lab: Installation, code: str) -> None:
    """Root inside does not even get the object, because the kernel refuses it or it is not there."""
    status, said = inside(lab, code.format(pid=os.getpid()))
    assert status == 1
    assert any(word in said for word in ("Error: [Errno", "Permission", "No such file")), said


@dataclass(slots=True)
class Canary:
    """Sockets on the host's own addresses that count who comes."""

    udp: socket.socket
    tcp: socket.socket

    def saw(self) -> list[str]:
        """Return what came since the last look."""
        seen = []
        with suppress(BlockingIOError):
            seen.append(f"udp {self.udp.recv(100)!r}")
        try:
            self.tcp.accept()[0].close()
            seen.append("tcp")
        except BlockingIOError:
            pass
        return seen


@pytest.fixture
def canary() -> Iterator[Canary]:
    """Listen on the host's loopback, UDP and TCP on one port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(tcp.getsockname())
        tcp.settimeout(0)
        udp.settimeout(0)
        yield Canary(udp, tcp)


SENDS = {
    "UDP to the host's loopback": "s=socket.socket(type=2); s.sendto(b'out', ('127.0.0.1', {port}))",
    "UDP by the host's name": "s=socket.socket(type=2); s.sendto(b'out', ('host.docker.internal', {port}))",
    "UDP to the gateway": "s=socket.socket(type=2); s.sendto(b'out', ('10.200.0.1', {port}))",
    "TCP to the host's loopback": "socket.create_connection(('127.0.0.1', {port}), 5)",
    "TCP to the gateway": "socket.create_connection(('10.200.0.1', {port}), 5)",
    "TCP to the host's loopback over IPv6": "socket.create_connection(('::1', {port}), 5)",
    "TCP to a mapped loopback": "socket.create_connection(('::ffff:127.0.0.1', {port}), 5)",
}


@pytest.mark.short
@pytest.mark.parametrize("code", SENDS.values(), ids=SENDS)
def test_the_hosts_loopback_hears_nothing(lab: Installation, canary: Canary, code: str) -> None:
    """What listens on the host's loopback hears nothing from inside, and would have heard the same from the host."""
    port = canary.tcp.getsockname()[1]
    inside(lab, code.format(port=port))
    assert canary.saw() == []
    if "127.0.0.1" in code:
        control = code.format(port=port).replace("::ffff:", "")
        subprocess.run([sys.executable, "-W", "ignore", "-c", RUN + control], check=True, timeout=30)
        wait_until(lambda: canary.saw() != [], "the control reaches the canary")


DROPPED = {
    "UDP": ("s=socket.socket(type=2); s.sendto(b'out', ('203.0.113.9', 4433))", "udp", 4433),
    "QUIC": ("s=socket.socket(type=2); s.sendto(b'out', ('203.0.113.9', 443))", "udp", 443),
    "UDP over IPv6": ("s=socket.socket(10, 2); s.sendto(b'out', ('2001:db8::9', 4434))", "udp", 4434),
}


@pytest.mark.short
@pytest.mark.parametrize(("code", "protocol", "port"), DROPPED.values(), ids=DROPPED)
def test_dropped_packets_are_on_record(lab: Installation, code: str, protocol: str, port: int) -> None:
    """A packet that is no TCP and no DNS goes nowhere and is counted in the trail with its address and port."""
    inside(lab, code)

    def is_recorded() -> bool:
        return any(
            record["kind"] == "dropped" and record["protocol"] == protocol and record["port"] == port
            for record in lab.records("lab")
        )

    wait_until(is_recorded, "the dropped packet is on record", 30)


@pytest.mark.short
def test_ping_goes_nowhere(lab: Installation) -> None:
    """An ICMP echo through the one socket type that needs no privilege is refused or unanswered."""
    status, said = inside(
        lab,
        "s=socket.socket(2, 2, 1); s.settimeout(2); s.connect(('203.0.113.9', 0));"
        "s.send(struct.pack('!BBHHH', 8, 0, 0, 1, 1)); print('answered', s.recv(100))",
    )
    assert status != 0
    assert "answered" not in said


METADATA = ("169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254")


@pytest.mark.short
@pytest.mark.parametrize("address", METADATA)
def test_metadata_addresses(lab: Installation, address: str) -> None:
    """A cloud's metadata service is never reached, and the record says why."""
    shown = f"[{address}]" if ":" in address else address
    done = lab("exec", "lab", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://{shown}/latest/")
    assert done.out == "403"
    reasons = {record.get("reason") for record in lab.records("lab") if record.get("host") == address}
    assert reasons == {"metadata-address"}


@pytest.mark.short
def test_unix_sockets_of_the_host(lab: Installation, isolation: Kind) -> None:
    """A socket of the host in the file system or in the abstract namespace is not there inside."""
    path = str(lab.home / f"{isolation.name}.sock")
    with socket.socket(socket.AF_UNIX) as named, socket.socket(socket.AF_UNIX) as abstract:
        named.bind(path)
        abstract.bind("\0sbx-test-canary")
        for listener in (named, abstract):
            listener.listen()
        for address in (path, "\\0sbx-test-canary"):
            code = f"s=socket.socket(socket.AF_UNIX); s.connect('{address}'); print('reached')"
            assert inside(lab, code)[0] == 1
            control = subprocess.run(
                [sys.executable, "-c", RUN + code], check=True, capture_output=True, text=True, timeout=30
            )
            assert control.stdout == "reached\n"


def test_another_sandbox(lab: Installation, isolation: Kind) -> None:
    """What listens in one sandbox, on every address it has, is not heard of in another."""
    lab.ok("create", *isolation.flags, "--name", "other", "shell", ".", folder=lab.home / "project")
    lab.ok("run", "-d", "other")
    server = lab.start("exec", "other", "python3", "-m", "http.server", "8099", "--bind", "::")
    try:
        own = ("exec", "other", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:8099/")
        wait_until(lambda: lab(*own).out == "200", "the server in the other sandbox answers there")
        for address in ("127.0.0.1", "10.200.0.1", "[fd5b:78::1]", "198.18.0.1"):
            done = lab(
                "exec",
                "lab",
                "curl",
                "-s",
                "--max-time",
                "10",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                f"http://{address}:8099/",
            )
            assert done.out in ("000", "403"), address
    finally:
        lab.ok("rm", "-f", "other")
        server.communicate(timeout=60)


@pytest.mark.short
def test_nothing_of_the_host_is_inherited(lab: Installation) -> None:
    """A command inside holds no descriptor but its three, and no variable of the host."""
    status, said = inside(
        lab, "print(sorted(os.listdir('/proc/self/fd'))[:-1], 'SBX_TEST_CANARY' in os.environ)", "agent"
    )
    assert (status, said.strip()) == (0, "['0', '1', '2'] False")


@pytest.mark.short
def test_the_host_is_not_visible(lab: Installation) -> None:
    """The folders of the host that were not given are not there, by any way round."""
    secret = lab.home / "secret.txt"
    secret.write_text("canary-of-the-host")
    names = f"'{secret}', '/proc/1/root{secret}', '/proc/1/cwd/../../{secret.name}', '{lab.home}/project/../secret.txt'"
    code = f"print([name for name in [{names}] if os.path.exists(name)], os.listdir('{lab.home}'))"
    assert inside(lab, code)[1].strip() == "[] ['project']"
