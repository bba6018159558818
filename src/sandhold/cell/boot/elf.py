"""The few parts of an ELF file that say whether a kernel boots and what its modules need.

Source: man page elf(5); 64-bit little-endian files only, which is what the supported processors have.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC: Final = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1
TABLE_ENTRIES_MAX: Final = 4096  # a kernel module has some 60 sections, a kernel six program headers
_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_NOTE: Final = struct.Struct("<III")
_PT_NOTE: Final = 4


def read_section(data: bytes, name: bytes) -> bytes | None:
    """Return the content of a section; None when the file has no section of that name.

    Raises:
        ValueError: when this is no ELF file, or its tables point outside of it.
    """
    header = _header(data)
    start, size, count, names = header[6], header[11], header[12], header[13]
    sections = list(_table(data, _SECTION, start, size, count))
    if names >= len(sections):
        raise ValueError("the section with the names is none of the file's")
    strings = _slice(data, sections[names][4], sections[names][5])
    for section in sections:
        if strings[section[0] :].partition(b"\0")[0] == name:
            return _slice(data, section[4], section[5])
    return None


def read_notes(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield owner and type of each note that a loader may read.

    Raises:
        ValueError: when this is no ELF file, or its tables point outside of it.
    """
    header = _header(data)
    for segment in _table(data, _SEGMENT, header[5], header[9], header[10]):
        if segment[0] != _PT_NOTE:
            continue
        notes = _slice(data, segment[2], segment[5])
        place = 0
        while place + _NOTE.size <= len(notes):
            name_size, size, kind = _NOTE.unpack_from(notes, place)
            place += _NOTE.size
            yield notes[place : place + name_size].rstrip(b"\0"), kind
            place += _padded(name_size) + _padded(size)


def _header(data: bytes) -> tuple[int, ...]:
    if not data.startswith(MAGIC) or len(data) < _HEADER.size:
        raise ValueError("not a 64-bit little-endian ELF file")
    return _HEADER.unpack_from(data)


def _table(data: bytes, entry: struct.Struct, start: int, size: int, count: int) -> Iterator[tuple[int, ...]]:
    if count == 0:
        return
    if size < entry.size or count > TABLE_ENTRIES_MAX:
        raise ValueError("a table of the ELF file has entries of an unknown shape")
    table = _slice(data, start, size * count)
    for number in range(count):
        yield entry.unpack_from(table, number * size)


def _slice(data: bytes, start: int, size: int) -> bytes:
    if start + size > len(data):
        raise ValueError("a part of the ELF file lies behind its end")
    return data[start : start + size]


def _padded(size: int) -> int:
    return size + -size % 4
