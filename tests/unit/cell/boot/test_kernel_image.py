"""Unpacking a kernel's file."""

from __future__ import annotations

import gzip
import lzma
import struct
from typing import TYPE_CHECKING, Final

import pytest

from sandhold.cell.boot.kernel_image import unpack_kernel
from tests.unit.cell.boot.elf_files import PVH_KERNEL, elf_file, note

if TYPE_CHECKING:
    from collections.abc import Mapping

SETUP_SECTORS: Final = 2


def boot_image(payload: bytes, *, version: int = 0x020F, length: int | None = None, magic: bytes = b"HdrS") -> bytes:
    """Return a `bzImage` of two sectors of set-up code and this payload 64 bytes into the rest, with code behind it."""
    head = bytearray((SETUP_SECTORS + 1) * 512 + 64)
    head[0x1F1] = SETUP_SECTORS
    struct.pack_into("<4sH", head, 0x202, magic, version)
    struct.pack_into("<II", head, 0x248, 64, len(payload) if length is None else length)
    return bytes(head) + payload + b"\xcc" * 333


SIZE: Final = struct.pack("<I", len(PVH_KERNEL))  # the build puts it behind what it has compressed

UNPACKED: Final[Mapping[str, bytes]] = {
    "xz, as Debian packs it": lzma.compress(PVH_KERNEL, check=lzma.CHECK_CRC32) + SIZE,
    "gzip": gzip.compress(PVH_KERNEL),
}

BOOTED_AS_IT_IS: Final[Mapping[str, bytes]] = {
    "zstd, which Python's library does not read": b"\x28\xb5\x2f\xfd" + bytes(90),
    "lz4": b"\x02\x21\x4c\x18" + bytes(90),
    "a kernel without the entry that QEMU needs": gzip.compress(elf_file({".text": b"x"}, note(b"GNU", 18, b"4"))),
    "a kernel without any note": gzip.compress(elf_file({".text": b"x"})),
}

DAMAGED: Final[Mapping[str, bytes]] = {
    "nothing": b"",
    "a file that is cut off in its header": boot_image(b"")[:0x203],
    "no kernel": bytes(4096),
    "a boot protocol that does not name the payload": boot_image(gzip.compress(PVH_KERNEL), version=0x0207),
    "a payload that goes on behind the end": boot_image(gzip.compress(PVH_KERNEL), length=1 << 30),
    "a damaged xz payload": boot_image(lzma.compress(PVH_KERNEL)[:40] + bytes(400)),
    "a damaged gzip payload": boot_image(b"\x1f\x8b" + b"\xff" * 400),
    "an ELF file that is cut off": boot_image(gzip.compress(PVH_KERNEL[:100])),
}


@pytest.mark.parametrize("payload", UNPACKED.values(), ids=UNPACKED)
def test_the_kernel_inside_is_returned(payload: bytes) -> None:
    """The ELF file comes out byte for byte, without what stands behind it."""
    assert unpack_kernel(boot_image(payload)) == PVH_KERNEL


@pytest.mark.parametrize("payload", BOOTED_AS_IT_IS.values(), ids=BOOTED_AS_IT_IS)
def test_a_kernel_that_must_unpack_itself_is_left_alone(payload: bytes) -> None:
    """What cannot be started directly is no error: it boots a little later."""
    assert unpack_kernel(boot_image(payload)) is None


@pytest.mark.parametrize("image", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_kernel_is_refused(image: bytes) -> None:
    """A file that is no kernel is an error before any machine is started with it."""
    with pytest.raises(ValueError):
        unpack_kernel(image)
