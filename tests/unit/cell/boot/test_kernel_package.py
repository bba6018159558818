"""What is read out of a kernel's package, and how it is asked for."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from sandhold.cell.boot.kernel_package import MAY_LACK, MODULES, kernel_command, read_package
from sandhold.cell.images.rootfs import Source
from tests.unit.cell.boot.elf_files import kernel_module

if TYPE_CHECKING:
    from collections.abc import Mapping

RELEASE: Final = "6.1.0-9-amd64"
FILES: Final[Mapping[str, bytes]] = {
    f"boot/vmlinuz-{RELEASE}": b"kernel",
    "bin/busybox": b"shell",
    f"lib/modules/{RELEASE}/modules.builtin": b"kernel/net/unix/unix.ko\n",
    **{
        f"lib/modules/{RELEASE}/kernel/some/{name.replace('_', '-')}.ko": kernel_module(name=name)
        for name in MODULES
        if name != "unix"
    },
}


def archive(path: Path, files: Mapping[str, bytes], prefix: str = "./") -> Path:
    with tarfile.open(path, "w") as packed:
        for name, content in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("prefix", ["./", "./usr/"], ids=["as it was", "below /usr"])
def test_a_package_is_read_wherever_it_keeps_its_files(prefix: str, tmp_path: Path) -> None:
    """Kernel, shell and modules are found, also where a distribution has moved its folders below `/usr`."""
    files = {name: content for name, content in FILES.items() if not name.startswith("boot/")}
    path = archive(tmp_path / "tar", files, prefix)
    with tarfile.open(path, "a") as packed:
        member = tarfile.TarInfo(f"./boot/vmlinuz-{RELEASE}")
        member.size = 6
        packed.addfile(member, io.BytesIO(b"kernel"))
    package = read_package(path)
    assert (package.release, package.image, package.shell) == (RELEASE, b"kernel", b"shell")
    assert [module.name for module in package.modules] == [name for name in MODULES if name != "unix"]


@pytest.mark.parametrize("name", [name for name in FILES if "crc32c" not in name])
def test_a_package_that_lacks_anything_is_refused(name: str, tmp_path: Path) -> None:
    """A guest that could not reach its disk or its network is not put together at all."""
    path = archive(tmp_path / "tar", {each: content for each, content in FILES.items() if each != name})
    with pytest.raises(ValueError):
        read_package(path)


def test_an_algorithm_that_newer_kernels_build_in_may_be_missing(tmp_path: Path) -> None:
    """What only has to come first where it exists is left out where it does not."""
    path = archive(tmp_path / "tar", {each: content for each, content in FILES.items() if "crc32c" not in each})
    assert not MAY_LACK & {module.name for module in read_package(path).modules}


def test_a_link_in_the_place_of_a_file_is_no_file(tmp_path: Path) -> None:
    """Nothing is read through a link that an archive holds."""
    path = archive(tmp_path / "tar", {name: content for name, content in FILES.items() if name != "bin/busybox"})
    with tarfile.open(path, "a") as packed:
        member = tarfile.TarInfo("./bin/busybox")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(member)
    with pytest.raises(ValueError, match="busybox"):
        read_package(path)


def test_the_command_names_no_mirror() -> None:
    """Only the host's own list says where the kernel comes from, and no script of a package is run."""
    for is_root in (True, False):
        command = kernel_command(Source("trixie", Path("/list")), "linux-image", Path("/out.tar"), is_root=is_root)
        assert not [word for word in command if "://" in word]
        assert {"--variant=extract", "--format=tar", f"--mode={'root' if is_root else 'unshare'}"} <= set(command)
        assert command[-3:] == ("trixie", "/out.tar", "/list")
