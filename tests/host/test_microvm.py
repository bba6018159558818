"""A sandbox in a virtual machine, emulated where the processor does not help: the same product, another kernel."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandhold.cell.boot.boot_files import boot_files
from sandhold.cell.images.templates import find_template
from sandhold.cell.machine.acceleration import DEVICE, DRIVERS, TRIAL_S_MAX, Proof, hardware_obstacle
from sandhold.cell.machine.booted import BOOT_S_MAX
from sandhold.cell.machine.qemu import Acceleration
from sandhold.cell.machine.snapshots import FOLDER
from sandhold.session.trial import attempt
from sandhold.store.database import open_database, transaction
from tests.installation import at_terminal, wait_until
from tests.isolation import microvm_lacks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandhold.cell.boot.boot_files import BootFiles
    from tests.installation import Installation

pytestmark = pytest.mark.skipif(microvm_lacks() != "", reason=microvm_lacks() or "nothing is missing")

RECORDED_S = 60.0
BOARDS = ("microvm", "q35")

# Frames as no honest guest sends them: an unknown type, a tag, another's address, ICMP, and a transport nobody serves.
RAW = """
import socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
u = socket.socket(2, 2); u.sendto(b"x", ("203.0.113.9", 123))
there = bytes.fromhex(open("/proc/net/arp").read().split()[-3].replace(":", ""))
here = bytes.fromhex("020000000002")
def ip(source, target, protocol, payload):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0,
                       socket.inet_aton(source), socket.inet_aton(target))
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return there + here + b"\\x08\\0" + head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:] + payload
s.send(there + here + b"\\x88\\xb5" + bytes(60))
s.send(there + here + b"\\x81\\0\\0\\5\\x08\\0" + bytes(60))
s.send(ip("10.9.9.9", "203.0.113.9", 17, struct.pack("!HHHH", 1, 53, 8, 0)))
s.send(ip("10.200.1.2", "203.0.113.10", 1, b"\\x08\\0\\xf7\\xff" + bytes(4)))
s.send(ip("10.200.1.2", "203.0.113.11", 132, bytes(12)))
"""


@pytest.fixture(scope="module")
def lab(module_sbx: Installation, module_project: Path) -> Iterator[Installation]:
    """A machine that runs in the background."""
    module_sbx.ok(
        "create", "--isolation", "microvm", "--memory", "1g", "--name", "lab", "shell", ".", folder=module_project
    )
    module_sbx.ok("run", "-d", "lab")
    yield module_sbx
    module_sbx.ok("stop", "lab")


@pytest.mark.skipif(hardware_obstacle() is None, reason="this host may run machines itself")
def test_what_must_not_be_emulated_is_not(sbx: Installation, project: Path) -> None:
    """A machine that was created with `--require-kvm` does not start once the hardware is gone."""
    create = ("create", "--isolation", "microvm", "--name", "hard", "shell", ".")
    refused = sbx(*create, "--require-kvm", folder=project)
    assert (refused.status, "no hardware virtualisation" in refused.err) == (125, True)
    sbx.ok(*create, folder=project)
    with contextlib.closing(open_database(sbx.state / "sandhold.db")) as database, transaction(database):
        database.execute("UPDATE sandboxes SET needs_hardware = 1")
    refused = sbx("exec", "hard", "true")
    assert (refused.status, "no hardware virtualisation" in refused.err) == (125, True)
    assert "without `--require-kvm`" in refused.err


def test_a_machine_from_start_to_stop(lab: Installation, module_project: Path) -> None:
    """A denied host is refused, the agent is who it always is, and the folder is the user's own at its own path."""
    refused = lab("exec", "lab", "curl", "-sS", "-m", "60", "http://denied.test/")
    assert "the network policy refuses `denied.test`" in refused.out
    assert ("BLOCKED", "denied.test", "-") in lab.log("lab")
    script = "uname -r; id -un; pwd; cat hello.txt; echo made > inside"
    release, user, folder, hello = lab.ok("exec", "lab", "sh", "-c", script).splitlines()
    assert release != os.uname().release
    assert (user, folder, hello) == ("agent", str(module_project), "hello from the host")
    made = module_project / "inside"
    assert (made.read_text(), made.stat().st_uid) == ("made\n", module_project.stat().st_uid)
    assert lab.ok("exec", "-u", "root", "lab", "id", "-u") == "0\n"
    assert lab("exec", "lab", "sh", "-c", "exit 7").status == 7
    assert lab.ok("exec", "lab", "sh", "-c", "echo opened > /dev/stdout") == "opened\n"
    assert lab.ok("exec", "-i", "lab", "cat", given="there and back\n") == "there and back\n"
    assert "microvm" in lab.ok("ls")
    assert "emulated" in lab.ok("inspect", "lab")


def test_what_a_machine_may_not_send_is_counted(lab: Installation) -> None:
    """Root of the guest puts whatever it likes on the wire: it goes nowhere, and each kind is on record."""
    lab.ok("exec", "-i", "-u", "root", "lab", "python3", "-", given=RAW)

    def kinds() -> set[str]:
        return {str(record["protocol"]) for record in lab.records("lab") if record["kind"] == "dropped"}

    wait_until(lambda: {"frames", "spoofed", "udp", "icmp", "sctp"} <= kinds(), "all of it is on record", RECORDED_S)


def test_a_terminal_in_a_machine(lab: Installation, module_project: Path) -> None:
    """The command has a terminal of the user's size, hears of another one, and of a key that interrupts."""
    with at_terminal(lab, "exec", "-it", "lab", "bash", "--norc", folder=module_project) as terminal:
        terminal.type("stty size; tty\n")
        terminal.expect("24 80")
        terminal.expect("/dev/pts/")
        terminal.resize(40, 100)
        terminal.type("until [ \"$(stty size)\" = '40 100' ]; do :; done; echo re''sized\n")
        terminal.expect("resized")
        terminal.type("echo sle''eping; sleep 1000\n")
        terminal.expect("sleeping")
        terminal.type("\x03")
        terminal.expect("^C")
        terminal.type("echo inter''rupted\n")
        terminal.expect("interrupted")
        terminal.type("exit 3\n")


@pytest.mark.long
def test_what_is_written_stays_and_a_panic_is_said(sbx: Installation, project: Path) -> None:
    """What was installed is there after a stop and after the guest's kernel died, which the trail and the log name."""
    sbx.ok("create", "--isolation", "microvm", "--memory", "1g", "--name", "lab", "shell", ".", folder=project)
    sbx.ok("exec", "-u", "root", "lab", "sh", "-c", "echo kept > /opt/kept")
    assert sbx.ok("exec", "lab", "cat", "/opt/kept") == "kept\n"
    script = "echo synced > /opt/synced; sync; echo c > /proc/sysrq-trigger"
    died = sbx("exec", "-u", "root", "lab", "sh", "-c", script)
    assert (died.status, "ended by itself: the machine ended (" in died.err) == (125, True)
    wait_until(lambda: "stopped" in sbx.ok("ls"), "the session has ended")
    assert "panic" in died.err
    assert "panic" in sbx.ok("logs", "lab")
    assert "panic" in sbx.records("lab")[-1]["detail"]
    assert sbx.ok("exec", "lab", "cat", "/opt/kept", "/opt/synced") == "kept\nsynced\n"


def test_a_machine_cannot_start_from_the_hosts_programs(sbx: Installation, project: Path) -> None:
    """The host's own root has no kernel to boot, and the refusal says what to do."""
    refused = sbx("create", "--isolation", "microvm", "--template", "host", "shell", ".", folder=project)
    assert refused.status == 2
    assert "--isolation namespaces" in refused.err


def test_without_hardware_the_flag_that_wants_it_fails(sbx: Installation, project: Path) -> None:
    """`--require-kvm` never ends in an emulated machine."""
    if "virtual machines: run by the processor" in sbx("doctor").out:
        pytest.skip("this host may run machines itself")
    refused = sbx("create", "--isolation", "microvm", "--require-kvm", "shell", ".", folder=project)
    assert refused.status == 125
    assert "hardware virtualisation" in refused.err


@pytest.mark.skipif(
    not os.access(DEVICE, os.R_OK | os.W_OK) or any(Path("/sys/module", driver).exists() for driver in DRIVERS),
    reason="only a host whose `/dev/kvm` opens and runs nothing can be found out",
)
def test_a_device_that_opens_and_runs_nothing_is_found_out(sbx: Installation, tmp_path: Path) -> None:
    """A trial with such a device fails, in time, with QEMU's own words, for each kind of machine there is."""
    proof = attempt(tmp_path, _something_to_boot(sbx), Acceleration.KVM, TRIAL_S_MAX)
    assert not proof.works
    assert [part.partition(":")[0] for part in proof.detail.split("; ") if part.startswith(BOARDS)] == list(BOARDS)
    assert "qemu-system-x86_64" in proof.detail


def test_a_machine_that_is_not_ready_in_time_has_failed(sbx: Installation, tmp_path: Path) -> None:
    """No trial takes longer than it may; nothing is left of it."""
    proof = attempt(tmp_path, _something_to_boot(sbx), Acceleration.TCG, 0.1)
    assert not proof.works
    assert proof.detail.count("within 0.1 seconds") == len(BOARDS)
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == [".lock"]


@pytest.mark.long
def test_a_machine_that_starts_is_the_proof(sbx: Installation, tmp_path: Path) -> None:
    """What a trial asks for is a guest that says it waits: emulated, that can be had anywhere."""
    assert attempt(tmp_path, _something_to_boot(sbx), Acceleration.TCG, BOOT_S_MAX) == Proof(works=True, detail="")


def _something_to_boot(sbx: Installation) -> BootFiles:
    sbx.ok("template", "build", "--microvm", "debian")
    data = sbx.data / "sandhold"
    return boot_files(data / "vm", find_template(data / "templates", "debian"), lambda *_: None)
