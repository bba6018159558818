"""Root of a guest has a whole kernel, and gains nothing by it: what it sends, opens or breaks stays in the machine.

The oracle for packets is a listener on every interface of the host that looks for the bytes that were sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.installation import wait_until
from tests.isolation import MICROVM, microvm_lacks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.installation import Installation

pytestmark = pytest.mark.skipif(bool(microvm_lacks()), reason=microvm_lacks() or "nothing is missing")

MAGIC: Final = b"sbx-frame-canary-8d1f"
DENIED: Final = "denied.example.com"
ASK: Final = f"curl -s -o /dev/null --max-time 60 -w %{{http_code}} http://{DENIED}/"
ETHERNET_ALL: Final = 3  # ETH_P_ALL (packet(7))
LOG_BYTES_MAX: Final = 1 << 20

FRAMES: Final = f"""
import os, socket, struct, sys
MAGIC = {MAGIC!r}
card = next(name for name in os.listdir("/sys/class/net") if name != "lo")
me = bytes.fromhex(open(f"/sys/class/net/{{card}}/address").read().strip().replace(":", ""))
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((card, 0))
def total(data):
    data += bytes(len(data) % 2)
    number = sum(struct.unpack(f"!{{len(data) // 2}}H", data))
    while number >> 16: number = (number & 0xFFFF) + (number >> 16)
    return ~number & 0xFFFF
def ipv4(source, target, protocol, payload, fragment=0):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, fragment, 64, protocol, 0,
                       socket.inet_aton(source), socket.inet_aton(target))
    return head[:10] + struct.pack("!H", total(head)) + head[12:] + payload
def ipv6(source, target, following, payload):
    return struct.pack("!IHBB", 6 << 28, len(payload), following, 64) + socket.inet_pton(10, source) + \\
        socket.inet_pton(10, target) + payload
def udp(port, data): return struct.pack("!HHHH", 4000, port, 8 + len(data), 0) + data
def syn(source, target, port, data):
    head = struct.pack("!HHIIBBHHH", 4000, port, 1, 0, 5 << 4, 2, 1024, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!BBH", 0, 6, len(head) + len(data))
    return head[:16] + struct.pack("!H", total(pseudo + head + data)) + head[18:] + data
def send(kind, payload, target=b"\\xff" * 6, tag=b""):
    try: wire.send(target + me + tag + struct.pack("!H", kind) + payload)
    except OSError as error: print("not sent", error)
hosts = sys.argv[1].split()
for host in [*hosts, "127.0.0.1", "10.200.0.1", "10.200.1.1", "203.0.113.9", "255.255.255.255", "224.0.0.251"]:
    for source in ("10.200.1.2", "192.0.2.77", host, "127.0.0.1"):
        send(0x0800, ipv4(source, host, 17, udp(4455, MAGIC)))
        send(0x0800, ipv4(source, host, 6, syn(source, host, 443, MAGIC)))
        send(0x0800, ipv4(source, host, 1, struct.pack("!BBHHH", 8, 0, 0, 1, 1) + MAGIC))
        send(0x0800, ipv4(source, host, 47, MAGIC))
        send(0x0800, ipv4(source, host, 17, udp(4455, MAGIC), 0x2000))
    send(0x0806, struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, me, socket.inet_aton(host), bytes(6),
                             socket.inet_aton(host)) + MAGIC)
    for tag in (b"\\x81\\x00\\x00\\x07", b"\\x88\\xa8\\x00\\x07\\x81\\x00\\x00\\x01"):
        send(0x0800, ipv4("10.200.1.2", host, 17, udp(4455, MAGIC)), tag=tag)
for target in ("ff02::1", "::1", "2001:db8::9", "fe80::1", "fd5b:78::1"):
    for source in ("fd5b:78:2::2", "2001:db8::77", "::1"):
        send(0x86DD, ipv6(source, target, 17, udp(4455, MAGIC)))
        send(0x86DD, ipv6(source, target, 58, bytes([134, 0, 0, 0, 64, 8, 7, 8]) + bytes(8) + MAGIC))
        send(0x86DD, ipv6(source, target, 0, bytes([59, 0, 5, 2, 0, 0, 1, 0]) + MAGIC))
for kind in (0x88CC, 0x8847, 0x8863, 0x888E, 0x22F0, 0x9000, 0x0001):
    send(kind, MAGIC * 3)
send(0x0800, MAGIC * 60)
send(0x0800, MAGIC * 400)
print("sent")
"""


@pytest.fixture(scope="module")
def guest(module_sbx: Installation, module_project: Path) -> Iterator[Installation]:
    """Run a microVM that the tests attack from, one after the other."""
    module_sbx.ok("create", *MICROVM.flags, "--name", "lab", "shell", ".", folder=module_project)
    module_sbx.ok("run", "-d", "lab")
    yield module_sbx
    module_sbx.ok("rm", "-f", "lab")


@pytest.fixture
def fresh(sbx: Installation, project: Path) -> Installation:
    """Run a microVM that a test may break."""
    sbx.ok("create", *MICROVM.flags, "--name", "lab", "shell", ".", folder=project)
    sbx.ok("run", "-d", "lab")
    return sbx


def as_root(lab: Installation, script: str) -> str:
    """Run a script as root of the guest and return all it said."""
    done = lab("exec", "-u", "root", "lab", "bash", "-c", script)
    return done.out + done.err


def session_pid(lab: Installation) -> int:
    """Return the process of the sandbox's session."""
    return int(json.loads((lab.state / "sandboxes" / "lab" / "session.json").read_text())["pid"])


def descendants(pid: int) -> list[int]:
    """Return the processes that a process started, and those they started (proc(5))."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [each for child in children for each in (int(child), *descendants(int(child)))]


def qemu(lab: Installation) -> int:
    """Return the process of the machine."""
    return next(
        pid for pid in descendants(session_pid(lab)) if b"qemu-system" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


def assert_refused(lab: Installation) -> None:
    """The guest still gets its refusals, in words and on record: nothing of policy has gone."""
    before = len(lab.records("lab"))
    assert lab("exec", "lab", "bash", "-c", ASK).out == "403"
    fresh = [record for record in lab.records("lab")[before:] if record.get("decision") == "deny"]
    assert DENIED in {claim["host"] for record in fresh for claim in (record, *record.get("claims", ()))}


@contextlib.contextmanager
def sniffer() -> Iterator[Callable[[], int]]:
    """Listen on every interface of the host; gives a function that counts the frames that hold the canary."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERNET_ALL)) as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        wire.settimeout(0)

        def count() -> int:
            seen = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    seen += MAGIC in wire.recv(65536)
            return seen

        yield count


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can listen on every interface of the host")
def test_no_frame_reaches_the_host(guest: Installation) -> None:
    """Whatever frame root sends (spoofed, tagged, multicast, fragmented, ARP, ICMP, other protocols), the host's
    interfaces never see it, and what was a datagram to an address is on record as dropped."""
    found = subprocess.run(["ip", "-4", "-o", "address"], capture_output=True, text=True, check=True).stdout
    hosts = [line.split()[3].partition("/")[0] for line in found.splitlines()]
    (guest.home / "project" / "frames.py").write_text(FRAMES)
    with sniffer() as count:
        assert "sent\n" in as_root(guest, f"python3 frames.py '{' '.join(hosts)}'")
        assert count() == 0
        with socket.socket(type=socket.SOCK_DGRAM) as control:
            control.sendto(MAGIC, ("127.0.0.1", 4455))
        assert count() > 0

    def is_recorded() -> bool:
        dropped = [record for record in guest.records("lab") if record["kind"] == "dropped"]
        return any((record["protocol"], record["port"]) == ("udp", 4455) for record in dropped)

    wait_until(is_recorded, "the dropped datagrams are on record")
    assert_refused(guest)


OTHER_NETWORKS: Final[Mapping[str, str]] = {
    "a second address": "ip address add 10.200.1.77/24 dev $card; {ask} --interface 10.200.1.77;"
    "ip address del 10.200.1.77/24 dev $card",
    "the gateway's address": "ip address add 10.200.0.1/32 dev $card; {ask} --interface 10.200.0.1;"
    "ip address del 10.200.0.1/32 dev $card",
    "another route": "ip route add 104.16.0.0/12 via 10.200.1.1 src 10.200.1.2; {ask}; ip route del 104.16.0.0/12",
    "a resolver of its own": "umount /etc/resolv.conf; echo nameserver 9.9.9.9 >/etc/resolv.conf; {ask}",
    "a hosts file of its own": "cp /etc/hosts /tmp/hosts; umount /etc/hosts; echo 203.0.113.9 {host} >>/etc/hosts;"
    "{ask}; cp /tmp/hosts /etc/hosts",
    "a larger frame": "ip link set $card mtu 9000; {ask}; ip link set $card mtu 1500",
    "another hardware address": "ip link set $card address 02:11:22:33:44:55; {ask}",
    "forwarding": "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding; {ask}",
    "a network of its own": "unshare -n true; unshare -rn true; {ask}",
    "cards of its own": "ip tuntap add dev tap0 mode tap; ip link add v0 link $card type vlan id 7;"
    "ip link add m0 link $card type macvlan; ip link add br0 type bridge; ip link set br0 up; {ask}",
    "a packet filter of its own": "python3 -c 'import socket; socket.socket(16, 3, 12).send(bytes(20))'; {ask}",
    "no route, and one of its own": "ip route flush table main; ip route add 10.200.1.1 dev $card;"
    "ip route add default via 10.200.1.1; {ask}",
}


@pytest.mark.long
@pytest.mark.parametrize("script", OTHER_NETWORKS.values(), ids=OTHER_NETWORKS)
def test_another_network_inside_leads_nowhere_else(guest: Installation, script: str) -> None:
    """Root may change its own kernel's network as it likes; what it asks for is refused all the same."""
    find = "card=$(basename $(dirname /sys/class/net/*/device)); "  # the one that is hardware: others were made here
    said = as_root(guest, find + script.format(ask=ASK, host=DENIED))
    assert "200" not in said.split()
    assert_refused(guest)


DEVICES: Final[Mapping[str, str]] = {
    "a socket to the hypervisor": "python3 -c 'import socket; socket.socket(40, 1).connect((2, 1))'",
    "hardware virtualisation": "head -c0 </dev/kvm",
    "the agent's port": "head -c0 /dev/vport*p*",
    "the template's disk": "blockdev --setrw /dev/vda; dd if=/dev/zero of=/dev/vda bs=4096 count=1 oflag=direct",
    "the template itself": "mount -o remount,rw /; mount -t erofs -o rw /dev/vda /mnt && touch /mnt/x",
}


def test_what_a_guest_must_not_have(guest: Installation) -> None:
    """The hypervisor's sockets, its device, the agent's port and writing to what all sandboxes start from are refused,
    and the image is what it was."""
    (image,) = [
        path
        for path in (guest.data / "sandhold" / "vm").glob("root-*.erofs")
        if any(path.samefile(file) for file in open_files(qemu(guest)))
    ]
    before = hashlib.sha256(image.read_bytes()).digest()
    for name, script in DEVICES.items():
        assert guest("exec", "-u", "root", "lab", "bash", "-c", script).status != 0, name
    assert hashlib.sha256(image.read_bytes()).digest() == before
    assert_refused(guest)


def open_files(pid: int) -> list[Path]:
    """Return what a process has open, by links that lead to the very files."""
    return [path for path in Path(f"/proc/{pid}/fd").iterdir() if path.exists()]


def test_the_machine_itself_runs_as_nobody_of_the_host(guest: Installation) -> None:
    """QEMU has no right, no way to gain one, a filter, and a root folder, network and processes that are not ours."""
    pid = qemu(guest)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert {name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapAmb"), "0" * 16
    )
    assert status["Seccomp"] == "2"
    assert int(status["Uid"].split()[0]) not in ({0} if os.geteuid() == 0 else set())
    for kind in ("net", "mnt", "pid", "user", "ipc", "uts"):
        assert Path(f"/proc/{pid}/ns/{kind}").readlink() != Path(f"/proc/self/ns/{kind}").readlink(), kind


@pytest.mark.long
def test_a_flood_on_the_console_holds_nothing_up(guest: Installation) -> None:
    """Megabytes on the machine's console slow nothing down outside, and no file of the host grows by them."""
    as_root(guest, "timeout 4 sh -c 'cat /dev/zero >/dev/ttyS0 & yes >/dev/console' ; true")
    assert guest.ok("exec", "lab", "echo", "alive") == "alive\n"
    folder = guest.state / "sandboxes" / "lab"
    assert sum(path.stat().st_size for path in folder.glob("*.log")) < LOG_BYTES_MAX
    assert_refused(guest)


def _kill(lab: Installation) -> None:
    os.kill(qemu(lab), signal.SIGKILL)


def _in_guest(script: str) -> Callable[[Installation], None]:
    def end(lab: Installation) -> None:
        lab("exec", "-u", "root", "lab", "bash", "-c", script)

    return end


OVERWRITE: Final = """
import re
with open("/proc/1/maps") as maps, open("/proc/1/mem", "wb", buffering=0) as memory:
    for line in maps:
        found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
        if found:
            start, end = (int(each, 16) for each in found.groups())
            memory.seek(start)
            try: memory.write(b"\\xff" * min(end - start, 1 << 20))
            except OSError: pass
"""

ENDS: Final[Mapping[str, Callable[[Installation], None]]] = {
    "QEMU is killed": _kill,
    "the guest powers off": _in_guest("echo o >/proc/sysrq-trigger; sleep 60"),
    "the guest reboots": _in_guest("echo b >/proc/sysrq-trigger; sleep 60"),
    "the guest's kernel panics": _in_guest("echo c >/proc/sysrq-trigger; sleep 60"),
    "process 1 is overwritten": _in_guest(f"python3 -c '{OVERWRITE}'; sleep 60"),
    "the agent's port is taken away": _in_guest(
        "cd /sys/bus/virtio/drivers/virtio_console && for each in virtio*; do echo $each >unbind; done; sleep 60"
    ),
}


@pytest.mark.parametrize(
    "end",
    [pytest.param(end, id=name, marks=[pytest.mark.long] if end is not _kill else []) for name, end in ENDS.items()],
)
def test_a_machine_that_ends(fresh: Installation, end: Callable[[Installation], None]) -> None:
    """However a machine ends, everything of its session ends with it, the record and the next command say so, and
    what was synced is there when it runs again."""
    lab = fresh
    lab.ok("exec", "-u", "root", "lab", "bash", "-c", "echo kept >/opt/kept; sync")
    pids = [session_pid(lab), *descendants(session_pid(lab))]
    end(lab)
    wait_until(lambda: all(is_gone(pid) for pid in pids), "everything of the session has ended", 120)
    last = lab.records("lab")[-1]
    assert (last["kind"], last["reason"]) == ("session-stopped", "cell-died")
    assert f"`lab` ended by itself: {last['detail']}" in lab("ls").err
    again = lab("exec", "lab", "cat", "/opt/kept")
    assert (again.status, again.out) == (0, "kept\n")
    assert f"before this one ended by itself: {last['detail']}" in again.err
    assert "ended by itself" not in lab("ls").err
    assert "unbroken" in lab.ok("policy", "log", "lab", "--verify")


def is_gone(pid: int) -> bool:
    """Whether no process has that number, or only one that its parent has not looked after yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.long
def test_a_stopped_machine_can_be_stopped(fresh: Installation) -> None:
    """A machine that answers nothing any more is ended by `stop` all the same, in a bounded time."""
    pid = qemu(fresh)
    os.kill(pid, signal.SIGSTOP)
    fresh.ok("stop", "lab")
    assert is_gone(pid)


FILL: Final = """
import os
free = os.statvfs("/opt").f_bavail * os.statvfs("/opt").f_frsize
with open("/opt/full", "wb") as file:
    for part in range(64):
        try: os.posix_fallocate(file.fileno(), part * (free // 60), free // 60)
        except OSError as error: print(error.strerror); break
"""


@pytest.mark.long
def test_a_full_disk_is_the_guests_own(fresh: Installation) -> None:
    """A guest that fills its disk is told so, keeps running, and the host's disk holds no more than was written."""
    before = os.statvfs(fresh.home).f_bavail * os.statvfs(fresh.home).f_frsize
    said = as_root(fresh, f"python3 -c '{FILL}'; cp /usr/bin/git /opt/more; echo still here")
    assert "No space left on device" in said
    assert "still here\n" in said
    after = os.statvfs(fresh.home).f_bavail * os.statvfs(fresh.home).f_frsize
    assert before - after < 4 << 30
    assert (
        fresh.ok("exec", "-u", "root", "lab", "bash", "-c", "rm /opt/full; cp /usr/bin/git /opt/; echo fine")
        == "fine\n"
    )
    fresh.ok("stop", "lab")
    assert fresh.ok("exec", "lab", "ls", "/opt/git") == "/opt/git\n"
