"""Guards in a running cell: put there again after the host took them away, and nothing else."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.host.conftest import OpenCell, Person

WRITE = "echo evil >> {}"


@pytest.fixture
def folder(person: Person) -> Path:
    """Make a folder with `part`, a guarded folder with a guarded file in it, all of it the person's."""
    top = person.folder("guarded")
    (top / "part").mkdir()
    (top / "part" / "file").write_text("old")
    own(person, top / "part", top / "part" / "file")
    return top


@pytest.fixture
def guarded(person: Person, folder: Path) -> Iterator[OpenCell]:
    """Open a cell with both guards: nothing inside can rename the folder, nor write the file."""
    with closing(person.start(mounts=[[str(folder), False]], guarded=guards(folder))) as cell:
        assert "Read-only file system" in write(cell, folder)
        yield cell


def guards(folder: Path) -> list[list[object]]:
    return [[str(folder / "part"), False, False], [str(folder / "part" / "file"), True, True]]


def own(person: Person, *paths: Path) -> None:
    for path in paths:
        os.chown(path, person.uid, person.uid, follow_symlinks=False)


def replace(person: Person, file: Path) -> None:
    """Rename a new file over it, as git does."""
    new = file.with_name("new")
    new.write_text("new")
    own(person, new)
    new.rename(file)


def write(cell: OpenCell, folder: Path) -> str:
    """What trying to write the guarded file says."""
    return cell.run("sh", "-c", WRITE.format("part/file"), folder=str(folder))[1]


def test_a_file_that_was_replaced(person: Person, folder: Path, guarded: OpenCell) -> None:
    """The host's new file is writable inside until it is covered; then neither writing nor renaming changes it."""
    replace(person, folder / "part" / "file")
    assert write(guarded, folder) == "", "what this is for: the kernel took the guard away"
    assert guarded.ask(do="cover", guards=guards(folder)) == {"covered": 1}
    assert "Read-only file system" in write(guarded, folder)
    assert "busy" in guarded.run("mv", "part", "other", folder=str(folder))[1]
    assert "busy" in guarded.run("sh", "-c", "echo evil > x; mv -f x part/file", folder=str(folder))[1]
    for words in (("umount", "part/file"), ("mount", "-o", "remount,bind,rw", "part/file")):
        assert guarded.run(*words, user="root", folder=str(folder))[0] != 0
    assert (folder / "part" / "file").read_text() == "newevil\n"


def test_a_folder_that_was_replaced(person: Person, folder: Path, guarded: OpenCell) -> None:
    """All guards in a folder that the host replaced are put there again, from the top down."""
    (folder / "part").rename(folder / "gone")
    (folder / "part").mkdir()
    (folder / "part" / "file").write_text("new")
    own(person, folder / "part", folder / "part" / "file")
    assert guarded.ask(do="cover", guards=guards(folder)) == {"covered": 2}
    assert "Read-only file system" in write(guarded, folder)
    assert "busy" in guarded.run("mv", "part", "other", folder=str(folder))[1]


def test_guards_that_are_there_stay(folder: Path, guarded: OpenCell) -> None:
    """Covering when there is nothing to cover adds nothing, however often."""
    before = guarded.run("cat", "/proc/self/mountinfo")[1]
    for _ in range(3):
        assert guarded.ask(do="cover", guards=guards(folder)) == {"covered": 0}
    assert guarded.run("cat", "/proc/self/mountinfo")[1] == before


def test_what_is_no_plain_file(person: Person, folder: Path, guarded: OpenCell) -> None:
    """A link, another kind of file, or nothing in the place of a guard is left alone, and so is where a link leads."""
    file = folder / "part" / "file"
    file.unlink()
    assert guarded.ask(do="cover", guards=guards(folder)) == {"covered": 0}
    file.symlink_to("/etc/hostname")
    own(person, file)
    assert guarded.ask(do="cover", guards=guards(folder)) == {"covered": 0}
    file.unlink()
    os.mkfifo(file)
    own(person, file)
    assert guarded.ask(do="cover", guards=guards(folder)) == {"covered": 0}
