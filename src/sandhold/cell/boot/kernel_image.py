"""A kernel unpacked on the host, once, so that no guest spends its first second on unpacking itself.

A `bzImage` holds the kernel as a compressed ELF file (Documentation/arch/x86/boot.rst of the kernel: `payload_offset`,
`payload_length`). QEMU starts that file directly when it names its PVH entry (a note of Xen's, type 18).
"""

from __future__ import annotations

import lzma
import struct
import zlib
from typing import Final

from sandhold.cell.boot.elf import read_notes

KERNEL_BYTES_MAX: Final = 256 << 20  # a distribution's kernel is some 50 MB unpacked
_BOOT_MAGIC: Final = b"HdrS"
_BOOT_MAGIC_AT: Final = 0x202
_VERSION_AT: Final = 0x206
_PAYLOAD_AT: Final = 0x248
_PAYLOAD_SINCE: Final = 0x0208  # the version of the boot protocol that names the payload
_SETUP_SECTORS_AT: Final = 0x1F1
_SETUP_SECTORS: Final = 4  # what 0 stands for
_SECTOR: Final = 512
_XZ: Final = b"\xfd7zXZ\x00"
_GZIP: Final = b"\x1f\x8b"
_XEN: Final = b"Xen"
_PHYS32_ENTRY: Final = 18


def unpack_kernel(image: bytes) -> bytes | None:
    """Return the ELF file in a `bzImage`; None when it has to be booted as it is: it is compressed in a way that
    Python's library does not read, or QEMU could not start what is in it.

    Raises:
        ValueError: when this is no kernel, or it is damaged.
    """
    payload = _payload(image)
    try:
        if payload.startswith(_XZ):
            unpacked = lzma.LZMADecompressor().decompress(payload, KERNEL_BYTES_MAX)
        elif payload.startswith(_GZIP):
            unpacked = zlib.decompressobj(wbits=31).decompress(payload, KERNEL_BYTES_MAX)
        else:
            return None
    except (lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"the kernel's payload is damaged: {error}") from error
    if len(unpacked) >= KERNEL_BYTES_MAX:
        raise ValueError(f"the kernel unpacks to more than {KERNEL_BYTES_MAX} bytes")
    return unpacked if (_XEN, _PHYS32_ENTRY) in read_notes(unpacked) else None


def _payload(image: bytes) -> bytes:
    try:
        (version,) = struct.unpack_from("<H", image, _VERSION_AT)
        offset, length = struct.unpack_from("<II", image, _PAYLOAD_AT)
        sectors = image[_SETUP_SECTORS_AT] or _SETUP_SECTORS
    except (struct.error, IndexError):
        raise ValueError("the file is too short for a kernel") from None
    if image[_BOOT_MAGIC_AT:_VERSION_AT] != _BOOT_MAGIC or version < _PAYLOAD_SINCE:
        raise ValueError("the file is no kernel that names what it holds")
    start = (sectors + 1) * _SECTOR + offset
    if start + length > len(image):
        raise ValueError("the kernel's payload lies behind its end")
    return image[start : start + length]
