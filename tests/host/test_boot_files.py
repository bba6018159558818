"""What a virtual machine boots from, made for real, and booted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import pytest

from sandhold.cell.boot.boot_files import boot_files, find_boot_files, remove_unused
from sandhold.cell.boot.initramfs import AGENT_FOLDER, ROOT_SERIAL, Entry, make_archive
from sandhold.cell.identity import identity_for
from sandhold.cell.images.templates import find_template
from sandhold.cell.spec import AGENT_UID, Template, TemplateKind
from sandhold.linux.process import find_program
from sandhold.paths import Paths
from sandhold.session.building import templates as session_templates
from tests.installation import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandhold.cell.boot.boot_files import BootFiles
    from tests.installation import Installation

pytestmark = [
    pytest.mark.skipif(find_program("mmdebstrap") is None, reason="`mmdebstrap` is not installed"),
    pytest.mark.skipif(find_program("mkfs.erofs") is None, reason="`mkfs.erofs` is not installed"),
    pytest.mark.skipif(identity_for(0).is_single, reason="needs root or subordinate ids"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="virtual machines are made for x86_64 only"),
]
needs_qemu = pytest.mark.skipif(find_program("qemu-system-x86_64") is None, reason="QEMU is not installed")

BOOT_S_MAX: Final = 120.0  # three seconds when nothing else runs
APPEND: Final = "console=ttyS0 quiet panic=-1 reboot=t tsc_early_khz=2400000 mitigations=off cryptomgr.notests"

AGENT: Final = """
import ctypes, json, os
def main():
    def lines(path):
        with open(path) as file:
            return file.read().split()
    print("GUEST" + json.dumps({
        "pid": os.getpid(), "root": sorted(os.listdir("/")), "owner": os.stat("/home/agent").st_uid,
        "mode": os.stat("/usr/bin/sudo").st_mode & 0o7777, "kinds": lines("/proc/filesystems"),
        "read-only": os.statvfs("/").f_flag & os.ST_RDONLY,
    }), flush=True)
    ctypes.CDLL(None).reboot(0x4321FEDC)
"""


def say_nothing(_stage: str, _detail: str) -> None:
    """Be told of progress."""


@pytest.fixture(scope="module")
def data(template_folder: Path) -> Path:
    """Be where templates and boot files are kept from run to run, with the `debian` template in it."""
    folder = template_folder / "sandhold"
    paths = Paths(state=template_folder, data=folder, config=template_folder)
    session_templates.ensure_template(paths, "debian", time.time(), lambda _: None)
    return folder


@pytest.fixture(scope="module")
def made(data: Path) -> BootFiles:
    """Make the files for `debian`, or find them as an earlier run made them."""
    return boot_files(data / "vm", find_template(data / "templates", "debian"), say_nothing)


@pytest.fixture
def small(made: BootFiles, tmp_path: Path) -> Iterator[Path]:
    """Make a folder with a small template, `small`, and a copy of the kernel, so that only its image has to be made."""
    write_template(tmp_path, "1")
    shutil.copytree(made.kernel.parent, tmp_path / "vm" / made.kernel.parent.name)
    yield tmp_path
    shutil.rmtree(tmp_path)


def write_template(folder: Path, built_at: str) -> Template:
    root = folder / "templates/small/rootfs"
    root.mkdir(parents=True, exist_ok=True)
    (root / "file").write_text(built_at)
    fields = {"version": 1, "kind": "directory", "built_at": built_at, "suite": "x", "size": 1, "packages": []}
    (folder / "templates/small/template.json").write_text(json.dumps(fields))
    return Template(TemplateKind.DIRECTORY, root)


def images(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "vm").iterdir() if path.name.startswith("root-"))


def boot(made: BootFiles, folder: Path, *, has_disk: bool = True) -> str:
    """Boot a machine in software and return what its console said; it has to end by itself."""
    agent = [
        *(
            Entry(f"{AGENT_FOLDER}{path}", stat.S_IFDIR | 0o755)
            for path in ("", "/sandhold", "/sandhold/cell", "/sandhold/cell/guest")
        ),
        Entry(f"{AGENT_FOLDER}/sandhold/cell/guest/agent.py", stat.S_IFREG | 0o644, AGENT.encode()),
    ]
    initramfs = folder / "initramfs"
    initramfs.write_bytes(made.initramfs.read_bytes() + make_archive(agent))
    disk = ["-drive", f"id=root,if=none,format=raw,readonly=on,file={made.root_image}"]
    disk += ["-device", f"virtio-blk-device,drive=root,serial={ROOT_SERIAL}"]
    done = subprocess.run(
        [
            "qemu-system-x86_64", "-M", "microvm", "-accel", "tcg", "-cpu", "max", "-m", "512", "-nodefaults",
            "-no-user-config", "-nographic", "-serial", "stdio", "-no-reboot", "-kernel", str(made.kernel),
            "-initrd", str(initramfs), "-append", APPEND, *(disk if has_disk else ()),
        ],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=BOOT_S_MAX, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_qemu
def test_a_guest_boots_into_the_template(made: BootFiles, tmp_path: Path) -> None:
    """The image is the guest's read-only root with its owners and set-id bits, the agent is process 1, and what a cell
    needs of the kernel is loaded."""
    said = boot(made, tmp_path)
    told = next(line for line in said.splitlines() if line.startswith("GUEST"))
    guest = json.loads(told.removeprefix("GUEST"))
    assert (guest["pid"], guest["owner"], guest["mode"]) == (1, 1000, 0o4755)
    assert guest["read-only"]
    assert {"usr", "etc", "home", "mnt"} <= set(guest["root"])
    assert {"9p", "ext4", "overlay", "erofs", "fuse"} <= set(guest["kinds"])


@needs_qemu
@pytest.mark.long
def test_a_guest_without_its_disk_says_so_and_ends(made: BootFiles, tmp_path: Path) -> None:
    """A machine that cannot start does not stay: its console says why, in one line."""
    assert "the guest cannot start: no disk with the serial number" in boot(made, tmp_path, has_disk=False)


def test_every_user_may_read_them_and_nobody_write_them(made: BootFiles) -> None:
    """Guests run as users of their own, which open the files by descriptors."""
    for path in (made.kernel, made.initramfs, made.root_image):
        assert path.stat().st_mode & 0o777 == 0o644


def test_nothing_belongs_to_whom_a_machine_runs_as(made: BootFiles) -> None:
    """A machine is given descriptors of them, and may not open anew for writing what others start from."""
    base = identity_for(0).base
    agent = os.geteuid() if base is None else base + AGENT_UID
    assert agent not in {path.stat().st_uid for path in (made.kernel, made.initramfs, made.root_image)}


def test_what_was_made_is_found_again(small: Path) -> None:
    """The second time nothing is made, and other templates' files are others."""
    template = find_template(small / "templates", "small")
    assert find_boot_files(small / "vm", template) is None
    first = boot_files(small / "vm", template, say_nothing)
    assert find_boot_files(small / "vm", template) == first
    stages: list[str] = []
    assert boot_files(small / "vm", template, lambda stage, _: stages.append(stage)) == first
    assert stages == []
    rebuilt = boot_files(small / "vm", write_template(small, "2"), say_nothing)
    assert (rebuilt.kernel, rebuilt.key == first.key) == (first.kernel, False)


def test_only_images_of_templates_that_are_gone_are_removed(small: Path) -> None:
    """A template that was built again leaves its old image behind until the next sweep; its new one stays."""
    boot_files(small / "vm", write_template(small, "1"), say_nothing)
    (old,) = images(small)
    kept = boot_files(small / "vm", write_template(small, "2"), say_nothing)
    (small / "vm/kernel-of-another-version").mkdir()
    remove_unused(small / "vm", small / "templates")
    assert old not in images(small)
    assert find_boot_files(small / "vm", write_template(small, "2")) == kept
    assert not (small / "vm/kernel-of-another-version").exists()
    shutil.rmtree(small / "templates/small")
    remove_unused(small / "vm", small / "templates")
    assert images(small) == []


def test_a_killed_builder_leaves_nothing_in_the_way(small: Path) -> None:
    """A builder that is killed half way has published nothing, and the next one makes everything."""
    big = small / "templates/small/rootfs/big"
    big.write_bytes(os.urandom(1 << 20) * 200)
    program = (
        "import sys; from pathlib import Path; from sandhold.cell.boot.boot_files import boot_files;"
        "from sandhold.cell.images.templates import find_template; home = Path(sys.argv[1]);"
        "boot_files(home / 'vm', find_template(home / 'templates', 'small'), lambda *said: print(*said, flush=True))"
    )
    place = small / "vm/.building/image"
    with subprocess.Popen([sys.executable, "-c", program, str(small)]) as builder:
        wait_until(lambda: place.exists() and place.stat().st_size > 0, "the image grows")
        builder.send_signal(signal.SIGKILL)
    template = find_template(small / "templates", "small")
    assert find_boot_files(small / "vm", template) is None
    made = boot_files(small / "vm", template, say_nothing)
    assert made.root_image.stat().st_size > big.stat().st_size
    assert not place.parent.exists()


def test_two_builders_take_turns(small: Path) -> None:
    """Of two commands at once one makes the files and the other finds them."""
    program = (
        "import sys; from pathlib import Path; from sandhold.cell.boot.boot_files import boot_files;"
        "from sandhold.cell.images.templates import find_template; home = Path(sys.argv[1]);"
        "print(boot_files(home / 'vm', find_template(home / 'templates', 'small'), lambda *_: None).key)"
    )
    argv = [sys.executable, "-c", program, str(small)]
    builders = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    keys = {builder.communicate(timeout=BOOT_S_MAX)[0] for builder in builders}
    assert len(keys) == 1
    assert {builder.returncode for builder in builders} == {0}
    assert len(images(small)) == 1


@pytest.mark.long
def test_a_kernel_is_fetched_anew_when_asked_for(small: Path) -> None:
    """The newest kernel takes the place of the one that is there."""
    template = find_template(small / "templates", "small")
    before = boot_files(small / "vm", template, say_nothing).kernel.stat().st_ino
    renewed = boot_files(small / "vm", template, say_nothing, renew=True)
    assert renewed.kernel.stat().st_ino != before
    assert find_boot_files(small / "vm", template) == renewed


def test_the_command_makes_everything_ready(sbx: Installation) -> None:
    """`template build --microvm` says that a template is ready for machines, also when it was; `host` never is."""
    done = sbx("template", "build", "--microvm")
    assert (done.status, "`debian` is ready for `--isolation microvm`" in done.out + done.err) == (0, True)
    refused = sbx("template", "build", "--microvm", "host")
    assert refused.status == 1
    assert "cannot start from `host`" in refused.err
