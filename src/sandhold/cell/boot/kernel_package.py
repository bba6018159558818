"""A distribution's kernel, fetched with the signatures that the host's own packages are checked with.

`mmdebstrap` unpacks the package into an archive without installing anything; what a guest needs is read out of that,
and no file of it is ever written to the host under the package's own names or owners.
"""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandhold.cell.boot.kernel_modules import built_in_modules, in_load_order, module_name, unpack_module
from sandhold.cell.images.rootfs import run_mmdebstrap
from sandhold.cell.ownership import require_user_ids
from sandhold.errors import SbxError
from sandhold.linux.process import find_program

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sandhold.cell.boot.kernel_modules import Module
    from sandhold.cell.images.rootfs import Progress, Source

KERNEL_PACKAGES: Final = {"x86_64": "linux-image-amd64"}
"""By processor: the generic kernels, because those for clouds lack the 9p file system that workspaces come over."""

SHELL_PACKAGE: Final = "busybox-static"

MODULES: Final = (
    "crc32c_generic",  # what `libcrc32c` looks for by the name of the algorithm, so that nothing would load it
    "virtio_mmio", "virtio_pci",
    "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "virtio_balloon",
    "erofs", "ext4", "overlay", "9pnet_virtio", "9p",
    "af_packet", "ipv6", "unix",
    "tun", "fuse", "loop",  # root inside may want these; the rest of a kernel's modules would only cost memory
)  # fmt: skip

MAY_LACK: Final = frozenset({"crc32c_generic"})  # newer kernels build it in under no name

_INSTEAD: Final = "use `--isolation namespaces`"
_KERNEL_PREFIX: Final = "boot/vmlinuz-"
_MODULES_PREFIX: Final = "lib/modules/"
_SHELL: Final = "bin/busybox"
_FILE_BYTES_MAX: Final = 256 << 20  # a kernel is some 10 MB packed


@dataclass(frozen=True, slots=True)
class KernelPackage:
    """A kernel as it was shipped, the modules that guests need in an order to load them in, and a static shell."""

    release: str
    image: bytes
    modules: tuple[Module, ...]
    shell: bytes


def kernel_command(source: Source, package: str, archive: Path, *, is_root: bool) -> tuple[str, ...]:
    """Return the whole command (man page mmdebstrap(1)); `extract` runs no script of any package."""
    return (
        "mmdebstrap",
        "--variant=extract",
        f"--mode={'root' if is_root else 'unshare'}",
        "--format=tar",
        f"--include={package},{SHELL_PACKAGE}",
        source.suite,
        str(archive),
        *([str(source.list_file)] if source.list_file is not None else []),
    )


def fetch_kernel(source: Source, folder: Path, lock: int, progress: Progress) -> KernelPackage:
    """Fetch the kernel by way of an archive in `folder`; `lock` is a descriptor whose lock the download holds on to.

    Raises:
        SbxError: when there is none for this processor, it cannot be fetched, or it is not what a guest needs.
    """
    machine = os.uname().machine
    if machine not in KERNEL_PACKAGES:
        raise SbxError(f"virtual machines are made for x86_64 only, and this is {machine}", hint=_INSTEAD)
    if find_program("mmdebstrap") is None:
        raise SbxError("`mmdebstrap` is not installed", hint=f"`sudo apt-get install mmdebstrap`, or {_INSTEAD}")
    is_root = os.geteuid() == 0
    if not is_root:
        require_user_ids()
    archive = folder / "kernel.tar"
    command = kernel_command(source, KERNEL_PACKAGES[machine], archive, is_root=is_root)
    run_mmdebstrap(command, lock, progress, instead=_INSTEAD)
    try:
        return read_package(archive)
    except (ValueError, tarfile.TarError) as error:
        raise SbxError(f"`{KERNEL_PACKAGES[machine]}` is not what a guest needs: {error}", hint=_INSTEAD) from error
    finally:
        archive.unlink()


def read_package(archive: Path) -> KernelPackage:
    """Read kernel, modules and shell out of an archive of unpacked packages.

    Raises:
        ValueError: when one of them is missing, damaged or too large.
        tarfile.TarError: when this is no archive.
    """
    with tarfile.open(archive) as packed:
        files = {_plain(member.name): member for member in packed if member.isfile()}
        kernels = sorted(name for name in files if name.startswith(_KERNEL_PREFIX))
        if not kernels:
            raise ValueError("it holds no kernel")
        release = kernels[-1].removeprefix(_KERNEL_PREFIX)
        folder = f"{_MODULES_PREFIX}{release}/"
        paths = {name: path for path in files if path.startswith(folder) and (name := module_name(path)) is not None}
        built_in = built_in_modules(_read(packed, files, f"{folder}modules.builtin").decode("utf-8", "replace"))

        def read_module(name: str) -> bytes | None:
            path = paths.get(name)
            return unpack_module(path, _read(packed, files, path)) if path is not None else None

        wanted = [name for name in MODULES if name not in MAY_LACK or name in paths]
        return KernelPackage(
            release,
            _read(packed, files, kernels[-1]),
            in_load_order(wanted, read_module, built_in),
            _read(packed, files, _SHELL),
        )


def _plain(name: str) -> str:
    """Return a path as it was before distributions moved `/lib` and `/bin` below `/usr`."""
    return name.removeprefix("./").removeprefix("usr/")


def _read(packed: tarfile.TarFile, files: Mapping[str, tarfile.TarInfo], path: str) -> bytes:
    member = files.get(path)
    if member is None:
        raise ValueError(f"it holds no `{path}`")
    if member.size > _FILE_BYTES_MAX:
        raise ValueError(f"`{path}` is larger than {_FILE_BYTES_MAX} bytes")
    file = packed.extractfile(member)
    assert file is not None, "a regular file has content"
    return file.read()
