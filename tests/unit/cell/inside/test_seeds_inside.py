"""Seeds add what is missing, replace what is outdated, and leave alone what is not theirs to touch."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING

import pytest

from sandhold.cell.inside.seeds_inside import FILE_BYTES_MAX, sow, with_missing_blocks
from sandhold.cell.plan import PlannedSeed
from sandhold.cell.spec import Seeding

if TYPE_CHECKING:
    from pathlib import Path

ONE = b"-----BEGIN CERTIFICATE-----\nb25l\n-----END CERTIFICATE-----\n"
TWO = b"-----BEGIN CERTIFICATE-----\ndHdv\n-----END CERTIFICATE-----\n"

BLOCKS = {
    "nothing there": (b"", ONE + TWO, ONE + TWO),
    "one is missing": (ONE, ONE + TWO, ONE + TWO),
    "nothing is missing": (TWO + b"# a remark\n" + ONE, ONE + TWO, TWO + b"# a remark\n" + ONE),
    "others stay": (TWO, ONE, TWO + ONE),
    "the last line has no end": (ONE.rstrip(), TWO, ONE + TWO),
    "nothing wanted": (ONE, b"", ONE),
    "a block that is cut short counts for nothing": (ONE[:40], ONE, ONE[:40] + b"\n" + ONE),
}


def seed(path: Path, content: bytes, seeding: Seeding, marker: bytes = b"") -> None:
    """Sow one seed as the user who runs the tests."""
    texts = [base64.b64encode(each).decode() for each in (content, marker)]
    sow(PlannedSeed(str(path), texts[0], seeding.value, texts[1]), os.geteuid())


@pytest.mark.parametrize(("found", "wanted", "expected"), BLOCKS.values(), ids=BLOCKS)
def test_missing_blocks_are_added(found: bytes, wanted: bytes, expected: bytes) -> None:
    """Each block of the wanted ones is there in the end, each that was there stays, and none is there twice."""
    joined = with_missing_blocks(found, wanted)
    assert joined == expected
    assert with_missing_blocks(joined, wanted) == joined


def test_a_file_is_added_to(tmp_path: Path) -> None:
    """A file that is missing is made, with its folders; one that is there is added to, also through a link."""
    path = tmp_path / "certs" / "bundle.crt"
    seed(path, ONE, Seeding.APPEND)
    assert path.read_bytes() == ONE
    link = tmp_path / "link.crt"
    link.symlink_to("certs/bundle.crt")
    seed(link, ONE + TWO, Seeding.APPEND)
    assert link.is_symlink()
    assert path.read_bytes() == ONE + TWO
    assert sorted(each.name for each in path.parent.iterdir()) == ["bundle.crt"]


def test_a_link_is_made_where_nothing_stands(tmp_path: Path) -> None:
    """What stands in its place stays, be it a dangling link; an empty file, which a mount leaves behind, is nothing."""
    path = tmp_path / "certs" / "12345678.0"
    seed(path, b"one.pem", Seeding.LINK)
    assert path.readlink().name == "one.pem"
    seed(path, b"two.pem", Seeding.LINK)
    assert path.readlink().name == "one.pem"
    path.unlink()
    path.write_bytes(b"own")
    seed(path, b"two.pem", Seeding.LINK)
    assert path.read_bytes() == b"own"
    path.write_bytes(b"")
    seed(path, b"two.pem", Seeding.LINK)
    assert path.readlink().name == "two.pem"


def test_a_file_without_the_marker_is_replaced(tmp_path: Path) -> None:
    """A file with the marker stays as it is, and none is made."""
    path = tmp_path / "cacerts"
    seed(path, b"new", Seeding.REPLACE, b"mark")
    assert not path.exists()
    path.write_bytes(b"with a mark in it")
    seed(path, b"new", Seeding.REPLACE, b"mark")
    assert path.read_bytes() == b"with a mark in it"
    path.write_bytes(b"old")
    seed(path, b"new", Seeding.REPLACE, b"mark")
    assert path.read_bytes() == b"new"


def test_a_file_is_made_where_nothing_stands(tmp_path: Path) -> None:
    """It is made with its folders; what stands in its place stays, but for an empty file."""
    path = tmp_path / ".pki" / "nssdb" / "cert9.db"
    seed(path, b"new", Seeding.CREATE)
    assert path.read_bytes() == b"new"
    seed(path, b"newer", Seeding.CREATE)
    assert path.read_bytes() == b"new"
    path.write_bytes(b"")
    seed(path, b"newer", Seeding.CREATE)
    assert path.read_bytes() == b"newer"
    (path.parent / "link").symlink_to("nowhere")
    seed(path.parent / "link", b"new", Seeding.CREATE)
    assert sorted(each.name for each in path.parent.iterdir()) == ["cert9.db", "link"]


@pytest.mark.parametrize("seeding", [Seeding.APPEND, Seeding.REPLACE, Seeding.CREATE])
def test_what_stands_in_the_way_is_left_alone(tmp_path: Path, seeding: Seeding) -> None:
    """A folder, a pipe, a loop of links and a file that is too large neither stop a start nor change."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with (tmp_path / "large").open("wb") as large:
        large.truncate(FILE_BYTES_MAX + 1)
    before = {each.name: each.lstat().st_mtime_ns for each in tmp_path.iterdir()}
    for name in before:
        seed(tmp_path / name, ONE, seeding, b"mark")
    assert {each.name: each.lstat().st_mtime_ns for each in tmp_path.iterdir()} == before


def test_a_file_where_a_folder_should_be_is_left_alone(tmp_path: Path) -> None:
    """Nothing is made below a file."""
    (tmp_path / "certs").write_bytes(b"no folder")
    for seeding in (Seeding.APPEND, Seeding.LINK):
        seed(tmp_path / "certs" / "one", ONE, seeding)
    assert (tmp_path / "certs").read_bytes() == b"no folder"
