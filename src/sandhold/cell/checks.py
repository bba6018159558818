"""What this host can give a cell. A check tries the thing itself where it can: a setting proves less than a success."""

from __future__ import annotations

import os
import pwd
import re
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandhold.cell.identity import identity_for
from sandhold.cell.machine.qemu import MACHINE_PROGRAMS, Board
from sandhold.cell.network import dropped, open_network
from sandhold.linux.limits import open_control_group
from sandhold.linux.process import find_program, spawn_module
from sandhold.linux.sock_diag import open_sock_diag
from sandhold.linux.syscalls import Machine
from sandhold.linux.users import helpers_missing, subordinate_range
from sandhold.model.sandbox import Limits

if TYPE_CHECKING:
    from sandhold.cell.machine.acceleration import Verdict

KERNEL_NEEDED: Final = (5, 19)  # idmapped lower layers of an overlay came last of what a cell is made of
TRIAL_TIMEOUT_S: Final = 30.0
MESSAGE_BYTES_MAX: Final = 4096
_IDS_NEEDED: Final = 65536
_VERSION: Final = re.compile(r"(\d+)\.(\d+)")
_TRIAL_PIDS: Final = 16


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `sbx doctor`: what was looked at, whether it is fine, what was found, and the command that fixes it.

    `fix` is None when nothing is to be done or nothing can be. Without what is not `is_needed` a sandbox still starts,
    and has less.
    """

    name: str
    is_ok: bool
    found: str
    fix: str | None
    is_needed: bool


def host_checks(machines: Verdict) -> tuple[Check, ...]:
    """Look at everything a cell needs on this host, for the user who runs this; how machines run is known."""
    return (
        _kernel(),
        _processor(),
        _user_namespaces(),
        _program("ip", "iproute2"),
        _program("nft", "nftables"),
        _network(),
        _overlays(),
        *(
            replace(check, is_needed=False)
            for check in (_builder(), _subordinate_ids(), _control_groups(), _socket_owners())
        ),
        *(replace(_program(name, package), is_needed=False) for name, package in MACHINE_PROGRAMS),
        replace(_virtual_machines(machines), is_needed=False),
    )


def _kernel() -> Check:
    release = os.uname().release
    found = _VERSION.match(release)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    needed = ".".join(str(number) for number in KERNEL_NEEDED)
    is_new = version >= KERNEL_NEEDED
    return _fine("kernel", release) if is_new else _missing("kernel", release, f"update to Linux {needed} or later")


def _processor() -> Check:
    """The system-call filter exists for the processors whose calls have been read."""
    try:
        machine = Machine.here()
    except OSError as error:
        return _missing("seccomp filter", error.strerror or str(error), None)
    actions = _text("/proc/sys/kernel/seccomp/actions_avail").split()
    if "user_notif" not in actions:
        return _missing("seccomp filter", "this kernel has no seccomp with user notification", None)
    return _fine("seccomp filter", machine.name)


def _user_namespaces() -> Check:
    name = "user namespaces"
    if _text("/proc/sys/user/max_user_namespaces") == "0":
        return _missing(name, "`user.max_user_namespaces` is 0", "sudo sysctl -w user.max_user_namespaces=15000")
    if os.geteuid() != 0:
        for path, closed, key in (
            ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "apparmor_restrict_unprivileged_userns=0"),
            ("/proc/sys/kernel/unprivileged_userns_clone", "0", "unprivileged_userns_clone=1"),
        ):
            if _text(path) == closed:
                found = f"`{path.rpartition('/')[2]}` closes them to ordinary users"
                return _missing(name, found, f"sudo sysctl -w kernel.{key}")
    return _fine(name, "allowed")


def _program(name: str, package: str) -> Check:
    path = find_program(name)
    return _fine(name, path) if path else _missing(name, "not installed", f"sudo apt-get install {package}")


def _builder() -> Check:
    """Without it there is no `debian` template, only `host`."""
    return replace(_program("mmdebstrap", "mmdebstrap"), name="template `debian`")


def _network() -> Check:
    """Make a cell's network for real and read its counters."""
    name = "network in a namespace"
    try:
        network = open_network(identity_for(0))
        try:
            dropped(network.namespaces)
        finally:
            network.close()
    except (OSError, TimeoutError) as error:
        return _missing(name, str(error), "sudo modprobe nf_tables nf_nat nft_fib_inet nft_ct nft_reject_inet")
    return _fine(name, "made, captured by nftables, read and ended")


def _socket_owners() -> Check:
    """Without them records do not say which user inside made a connection."""
    name = "users of connections"
    try:
        open_sock_diag().close()
    except OSError as error:
        return _missing(name, error.strerror or str(error), "sudo modprobe inet_diag tcp_diag")
    return _fine(name, "told by the kernel")


def _overlays() -> Check:
    """Mount an overlay for real, in the user namespace a cell would use."""
    name = "overlay file system"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.settimeout(TRIAL_TIMEOUT_S)
        with theirs:
            child = spawn_module("sandhold.cell.overlay_trial", [theirs.fileno()])
        try:
            said = ours.recv(MESSAGE_BYTES_MAX).decode("utf-8", "replace")
        except TimeoutError:
            said = "the trial took too long"
        finally:
            child.kill()
            child.wait(TRIAL_TIMEOUT_S)
    return (
        _fine(name, "mounted")
        if said == "mounted"
        else _missing(name, said or "the trial ended", "sudo modprobe overlay")
    )


def _subordinate_ids() -> Check:
    name = "ids for root inside"
    if os.geteuid() == 0:
        return _fine(name, "root gives every sandbox a range of its own")
    helper = helpers_missing()
    if helper is not None:
        return _missing(name, f"`{helper}` is not installed", "sudo apt-get install uidmap")
    user = pwd.getpwuid(os.geteuid()).pw_name
    for path, option in (("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")):
        found = subordinate_range(path, os.geteuid())
        if found is None or found[1] < _IDS_NEEDED:
            what = "no range" if found is None else f"only {found[1]} ids"
            return _missing(name, f"{what} in `{path}`", f"sudo usermod {option} 100000-165535 {user}")
    return _fine(name, "subordinate ids and their helpers are there")


def _control_groups() -> Check:
    """Make a group for real: only success says that memory and processor time can be limited."""
    name = "limits"
    try:
        group = open_control_group("doctor", Limits(1.0, 64 << 20, _TRIAL_PIDS))
        if group is not None:
            group.remove()
    except (OSError, TimeoutError) as error:
        return _missing(name, str(error), None)
    if group is None:
        return _missing(name, "this user may not make control groups: memory and processors stay unlimited", None)
    missing = {"memory", "pids", "cpu"} - group.controllers
    if missing:
        return _missing(name, f"no control group for {', '.join(sorted(missing))}", None)
    return _fine(name, "memory, processes and processor time")


def _virtual_machines(machines: Verdict) -> Check:
    """How the kind of cell with a kernel of its own runs here, and why not better."""
    name = "virtual machines"
    if machines.is_hardware:
        kind = "" if machines.board is Board.MICROVM else f", as `{machines.board.name.lower()}`"
        return _fine(name, f"run by the processor itself{kind}: {machines.reason}")
    fix = None if machines.is_settled else "sbx template build --microvm"
    if "closed" in machines.reason:
        fix = "sudo usermod --append --groups kvm $USER"
    return _missing(name, f"emulated, some ten times slower: {machines.reason}", fix)


def _fine(name: str, found: str) -> Check:
    return Check(name, is_ok=True, found=found, fix=None, is_needed=True)


def _missing(name: str, found: str, fix: str | None) -> Check:
    return Check(name, is_ok=False, found=found, fix=fix, is_needed=True)


def _text(path: str) -> str:
    try:
        return Path(path).read_text("ascii").strip()
    except OSError:
        return ""
