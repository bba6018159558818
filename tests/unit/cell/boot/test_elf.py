"""Reading sections and notes of ELF files, whole and damaged."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandhold.cell.boot.elf import read_notes, read_section
from tests.unit.cell.boot.elf_files import elf_file, note

if TYPE_CHECKING:
    from collections.abc import Mapping

WHOLE: Final = elf_file({".modinfo": b"a=1\0", ".data": b"xyz"}, note(b"Xen", 18, b"1234") + note(b"GNU", 3, b"5"))


def patched(at: int, form: str, value: int) -> bytes:
    data = bytearray(WHOLE)
    struct.pack_into(form, data, at, value)
    return bytes(data)


DAMAGED: Final[Mapping[str, bytes]] = {
    "nothing": b"",
    "another kind of file": b"#!/bin/sh\n" * 20,
    "a 32-bit file": b"\x7fELF\x01\x01\x01" + bytes(80),
    "a header that is cut off": WHOLE[:40],
    "a section table behind the end": patched(40, "<Q", 1 << 40),
    "sections of an unknown size": patched(58, "<H", 8),
    "more sections than any file has": patched(60, "<H", 0xFFFF),
    "names in a section that is none": patched(62, "<H", 77),
    "a file without its second half": WHOLE[: len(WHOLE) // 2],
}


def test_sections_are_found_by_name() -> None:
    """A section's content is returned as it stands, and a name that is not there is None."""
    assert read_section(WHOLE, b".modinfo") == b"a=1\0"
    assert read_section(WHOLE, b".data") == b"xyz"
    assert read_section(WHOLE, b".dat") is None


def test_notes_are_read_in_their_order() -> None:
    """Every note is yielded with its owner and type, whatever the padding between them."""
    assert list(read_notes(WHOLE)) == [(b"Xen", 18), (b"GNU", 3)]
    assert list(read_notes(elf_file({".data": b"x"}))) == []


def test_a_program_of_the_host_is_read() -> None:
    """A real file, made by a real linker, has the sections that every program has."""
    data = Path("/proc/self/exe").read_bytes()
    assert read_section(data, b".text")
    assert any(owner == b"GNU" for owner, _ in read_notes(data))


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused(data: bytes) -> None:
    """What is no whole file of the kind is an error and never half an answer."""
    with pytest.raises(ValueError):
        read_section(data, b".modinfo")


@given(at=st.integers(0, len(WHOLE) - 1), value=st.integers(0, 255), cut=st.integers(0, len(WHOLE)))
def test_no_damage_ends_in_anything_but_a_refusal(at: int, value: int, cut: int) -> None:
    """Any changed byte and any cut gives an answer or `ValueError`, nothing else."""
    data = bytearray(WHOLE)
    data[at] = value
    for damaged in (bytes(data), WHOLE[:cut]):
        try:
            read_section(damaged, b".modinfo")
            list(read_notes(damaged))
        except ValueError:
            continue
