"""The first file system of a guest."""

from __future__ import annotations

import shutil
import stat
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from sandhold.cell.boot.initramfs import INIT, MODULES_MAX, Entry, make_archive, make_initramfs
from sandhold.cell.boot.kernel_modules import Module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULES: Final = (Module("virtio_ring", b"ring"), Module("virtio", b"virtio!"))


def read_archive(data: bytes) -> Iterator[tuple[str, list[int], bytes]]:
    """Read the format as its description says: name, the 13 numbers of the header and the content of each entry."""
    place = 0
    while True:
        assert data[place : place + 6] == b"070701"
        assert place % 4 == 0
        numbers = [int(data[place + 6 + 8 * field : place + 14 + 8 * field], 16) for field in range(13)]
        size, name_size = numbers[6], numbers[11]
        name = data[place + 110 : place + 110 + name_size]
        assert name.endswith(b"\0")
        place += (110 + name_size + 3) // 4 * 4
        content = data[place : place + size]
        place += (size + 3) // 4 * 4
        if name == b"TRAILER!!!\0":
            assert place == len(data)
            return
        yield name[:-1].decode(), numbers, content


def test_an_archive_holds_what_was_put_in() -> None:
    """Names, modes, contents and device numbers are read back, whatever their lengths, and all belongs to root."""
    entries = [
        Entry("a", stat.S_IFDIR | 0o755),
        *(Entry(f"a/{'n' * length}", stat.S_IFREG | 0o640, b"c" * length) for length in range(1, 9)),
        Entry("a/link", stat.S_IFLNK | 0o777, b"n"),
        Entry("a/console", stat.S_IFCHR | 0o600, device=(5, 1)),
    ]
    found = list(read_archive(make_archive(entries)))
    assert [(name, numbers[1], content) for name, numbers, content in found] == [
        (entry.path, entry.mode, entry.content) for entry in entries
    ]
    assert {tuple(numbers[2:4]) for _, numbers, _ in found} == {(0, 0)}
    assert found[-1][1][9:11] == [5, 1]
    assert len({numbers[0] for _, numbers, _ in found}) == len(entries)


def test_another_program_unpacks_it(tmp_path: Path) -> None:
    """What other people's programs read of it is what was written."""
    program = shutil.which("bsdtar") or shutil.which("cpio")
    if program is None:
        pytest.skip("neither `bsdtar` nor `cpio` is installed")
    archive = make_archive([Entry("folder", stat.S_IFDIR | 0o755), Entry("folder/file", stat.S_IFREG | 0o600, b"text")])
    words = ["-xf", "-"] if program.endswith("bsdtar") else ["--extract", "--quiet"]
    subprocess.run([program, *words], input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "folder/file").read_bytes() == b"text"


def test_modules_are_loaded_in_their_order() -> None:
    """The names of the modules sort as they have to be loaded: a shell's pattern gives them in that order."""
    entries = {name: content for name, _, content in read_archive(make_initramfs(b"shell", MODULES))}
    loaded = sorted(name for name in entries if name.startswith("modules/"))
    assert [entries[name] for name in loaded] == [module.content for module in MODULES]
    assert entries["bin/busybox"] == b"shell"
    assert entries["init"] == INIT.encode()
    assert entries["bin/sh"] == b"busybox"


def test_nothing_of_it_depends_on_when_it_was_made() -> None:
    """Equal content is equal bytes; what a guest boots from is known by its digest."""
    assert make_initramfs(b"shell", MODULES) == make_initramfs(b"shell", MODULES)
    assert all(numbers[5] == 0 for _, numbers, _ in read_archive(make_initramfs(b"shell", MODULES)))


def test_the_place_of_the_guest_agent_is_free() -> None:
    """The archive that follows brings it, and nothing of this one stands there."""
    names = [name for name, _, _ in read_archive(make_initramfs(b"shell", MODULES))]
    assert not [name for name in names if name.partition("/")[0] == "sbx"]


def test_more_modules_than_their_numbers_order_are_refused() -> None:
    """Past two digits names would not sort as they have to be loaded."""
    with pytest.raises(AssertionError):
        make_initramfs(b"", tuple(Module(f"m{number}", b"") for number in range(MODULES_MAX + 1)))


def test_the_script_is_a_shell_script() -> None:
    """`/init` passes a shell's own check of its syntax."""
    done = subprocess.run(["sh", "-n"], input=INIT, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
