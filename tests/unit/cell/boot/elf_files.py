"""Small ELF files, put together as the format says, for the tests of what reads them."""

from __future__ import annotations

import struct


def elf_file(sections: dict[str, bytes], notes: bytes = b"") -> bytes:
    """Return a file with these sections, and one segment of notes when there are any."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in (*sections, ".shstrtab"))
    contents = {**sections, ".shstrtab": names}
    body = bytearray(notes)
    table = bytearray(bytes(64))
    for name, content in contents.items():
        place = 64 + 56 + len(body)
        body += content
        table += struct.pack(
            "<IIQQQQIIQQ", names.index(name.encode() + b"\0"), 1, 0, 0, place, len(content), 0, 0, 1, 0
        )
    segment = struct.pack("<IIQQQQQQ", 4, 4, 64 + 56, 0, 0, len(notes), len(notes), 4)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 1, 62, 1, 0, 64, 64 + 56 + len(body),
        0, 64, 56, 1 if notes else 0, 64, len(contents) + 1, len(contents),
    )  # fmt: skip
    return header + segment + bytes(body) + bytes(table)


def note(owner: bytes, kind: int, content: bytes) -> bytes:
    """Return one note of a segment of notes."""
    name = owner + b"\0"
    return (
        struct.pack("<III", len(name), len(content), kind)
        + name + bytes(-len(name) % 4)
        + content + bytes(-len(content) % 4)
    )  # fmt: skip


def kernel_module(**info: str) -> bytes:
    """Return a module that says this about itself."""
    text = b"".join(f"{key}={value}\0".encode() for key, value in info.items())
    return elf_file({".text": b"\x90" * 7, ".modinfo": text})


PVH_KERNEL = elf_file({".text": bytes(100)}, note(b"GNU", 3, b"build") + note(b"Xen", 18, bytes(4)))
"""A kernel as QEMU starts it directly, as far as its file's outside goes."""
