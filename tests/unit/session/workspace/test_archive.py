"""Archives from a sandbox are an attacker's: nothing is made outside of the folder meant, nothing through a link."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandhold.session.workspace import archive
from sandhold.session.workspace.archive import ArchiveError, Copied, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Entry = tuple[str, bytes, bytes | str]

FILE, FOLDER, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def written(entries: Iterable[Entry], mode: int = 0o644) -> bytes:
    """An archive of entries: a path, its kind, and its content or where it leads."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as made:
        for path, kind, what in entries:
            info = tarfile.TarInfo(path)
            info.type, info.mode = kind, mode
            if isinstance(what, bytes):
                info.size = len(what)
                made.addfile(info, io.BytesIO(what))
            else:
                info.linkname = what
                made.addfile(info)
    return buffer.getvalue()


def made(data: bytes, folder: Path, asked: str = "top", name: str = "copy") -> Copied:
    """Unpack bytes below a folder."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return unpack(io.BytesIO(data).read, fd, asked, name)
    finally:
        os.close(fd)


def below(folder: Path) -> list[str]:
    """Every path below a folder, without following links."""
    return sorted(
        os.path.relpath(os.path.join(here, name), folder)  # noqa: PTH118 - as os.walk gives them
        for here, folders, files in os.walk(folder)
        for name in (*folders, *files)
    )


def test_files_folders_and_links(tmp_path: Path) -> None:
    """What is harmless comes out as it went in, under the name that it is copied as."""
    long = "n" * 150
    entries: list[Entry] = [
        ("top", FOLDER, b""),
        ("top/a", FILE, b"hello"),
        ("top/sub", FOLDER, b""),
        (f"top/sub/{long}", FILE, b"x" * 1000),
        ("top/sub/link", LINK, "../a"),
        ("top/empty", FILE, b""),
    ]
    copied = made(written(entries, 0o4755), tmp_path)
    assert (copied.files, copied.folders, copied.size, copied.left_out) == (4, 2, 1005, [])
    assert below(tmp_path) == ["copy", "copy/a", "copy/empty", "copy/sub", "copy/sub/link", f"copy/sub/{long}"]
    assert (tmp_path / "copy/sub/link").read_bytes() == b"hello"
    assert stat.S_IMODE((tmp_path / "copy/a").stat().st_mode) == 0o755


REFUSED: dict[str, list[Entry]] = {
    "an absolute path": [("/etc/cron.d/x", FILE, b"evil")],
    "a path upwards": [("top/../../evil", FILE, b"evil")],
    "another name than was asked for": [("other", FILE, b"evil")],
    "an empty part": [("top//a", FILE, b"evil")],
    "a file below a link of its own": [("top", FOLDER, b""), ("top/l", LINK, "sub"), ("top/l/x", FILE, b"evil")],
    "a file below a file": [("top", FILE, b"x"), ("top/x", FILE, b"evil")],
    "too deep": [("top/" + "/".join("d" * 150), FILE, b"evil")],
}


@pytest.mark.parametrize("entries", REFUSED.values(), ids=REFUSED)
def test_what_breaks_a_rule(tmp_path: Path, entries: list[Entry]) -> None:
    """A path that leads elsewhere ends the copy, and nothing was made elsewhere."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    before = [path for path in below(tmp_path) if not path.startswith("folder/copy")]
    with pytest.raises((ArchiveError, OSError)):
        made(written(entries), folder)
    assert [path for path in below(tmp_path) if not path.startswith("folder/copy")] == before
    assert not any(
        path.is_file() and path.read_bytes() == b"evil" for path in tmp_path.rglob("*") if not path.is_symlink()
    )


LEFT_OUT: dict[str, tuple[bytes, str]] = {
    "an absolute link": (LINK, "/etc/passwd"),
    "a link upwards": (LINK, "../secret"),
    "a link that goes down and up again": (LINK, "sub/../../secret"),
    "a link to nothing": (LINK, ""),
    "a hard link": (HARD, "top/a"),
    "a device": (tarfile.CHRTYPE, ""),
    "a pipe": (tarfile.FIFOTYPE, ""),
}


@pytest.mark.parametrize(("kind", "target"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_is_left_out(tmp_path: Path, kind: bytes, target: str) -> None:
    """What could lead out, or is no file, is not made and said; what follows it is."""
    copied = made(written([("top", FOLDER, b""), ("top/bad", kind, target), ("top/good", FILE, b"x")]), tmp_path)
    assert below(tmp_path) == ["copy", "copy/good"]
    assert [each.split(":")[0] for each in copied.left_out] == ["copy/bad"]


def test_nothing_is_written_through_what_stands_there(tmp_path: Path) -> None:
    """A link or a second name that stands where a file belongs is replaced, never written through; a folder that is a
    link is not entered."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "key").write_text("mine")
    (mine / "other").write_text("mine")
    place = tmp_path / "place"
    (place / "copy").mkdir(parents=True)
    (place / "copy" / "a").symlink_to(mine / "key")
    os.link(mine / "other", place / "copy" / "b")
    made(written([("top", FOLDER, b""), ("top/a", FILE, b"evil"), ("top/b", FILE, b"evil")]), place)
    assert ((mine / "key").read_text(), (mine / "other").read_text()) == ("mine", "mine")
    assert (place / "copy" / "a").read_bytes() == b"evil"
    (place / "copy" / "sub").symlink_to(mine)
    with pytest.raises(OSError, match="symbolic"):
        made(written([("top/sub", FOLDER, b""), ("top/sub/key", FILE, b"evil")]), place)
    assert (mine / "key").read_text() == "mine"


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


MIXED = written(
    [("top", FOLDER, b""), ("top/a", FILE, b"x" * 600), ("top/l", LINK, "a"), ("top/" + "n" * 120, FILE, b"y")]
)
WHOLE = written([("top", FILE, b"hello" * 300)])
DAMAGED: dict[str, Callable[[], bytes]] = {
    "cut in a header": lambda: WHOLE[:200],
    "cut in a file": lambda: WHOLE[:1000],
    "cut in what pads a file": lambda: WHOLE[: 512 + 1500 + 10],
    "a header that was changed": lambda: _flip(WHOLE, 3),
    "no archive": lambda: b"hello, this is no archive at all" * 100,
    "a size that is none": lambda: WHOLE[:124] + b"9x9" + WHOLE[127:],
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_archive(tmp_path: Path, data: Callable[[], bytes]) -> None:
    """Bytes that are no whole archive are an error."""
    with pytest.raises(ArchiveError):
        made(data(), tmp_path)


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a long name nor a large file nor many members are read without a limit."""
    huge = tarfile.TarInfo("././@LongLink")
    huge.type, huge.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    with pytest.raises(ArchiveError, match="too long"):
        made(huge.tobuf(tarfile.GNU_FORMAT), tmp_path)
    monkeypatch.setattr(archive, "BYTES_MAX", 2000)
    with pytest.raises(ArchiveError, match="larger"):
        made(written([("top", FILE, b"x" * 3000)]), tmp_path)
    monkeypatch.setattr(archive, "BYTES_MAX", 1 << 30)
    monkeypatch.setattr(archive, "MEMBERS_MAX", 3)
    with pytest.raises(ArchiveError, match="more than 3"):
        made(written([("top", FOLDER, b"")] * 4), tmp_path)


def test_there_and_back(tmp_path: Path) -> None:
    """What is packed comes out the same; links are links, and what is no file is left out."""
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_bytes(os.urandom(5000))
    (source / "link").symlink_to("sub/file")
    os.mkfifo(source / "pipe")
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    buffer = io.BytesIO()
    try:
        packed = pack(buffer, fd, "source", "top")
    finally:
        os.close(fd)
    assert (packed.files, packed.folders, [each.split(":")[0] for each in packed.left_out]) == (2, 2, ["top/pipe"])
    (tmp_path / "back").mkdir()
    made(buffer.getvalue(), tmp_path / "back")
    assert below(tmp_path / "back") == ["copy", "copy/link", "copy/sub", "copy/sub/file"]
    assert (tmp_path / "back/copy/link").read_bytes() == (source / "sub" / "file").read_bytes()


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(MIXED) - 1), st.integers(0, 255)), max_size=12), st.integers(0, len(MIXED))
)
def test_whatever_bytes_come(changes: list[tuple[int, int]], end: int) -> None:
    """However an archive is changed or cut, it is unpacked or is an error, and nothing is made elsewhere."""
    data = bytearray(MIXED)
    for at, value in changes:
        data[at] = value
    for block in range(0, len(data) - 512, 512):  # a header that was changed is one with a right sum again
        total = sum(data[block : block + 148]) + 8 * 0x20 + sum(data[block + 156 : block + 512])
        if data[block + 257 : block + 262] == b"ustar":
            data[block + 148 : block + 156] = b"%06o\0 " % total
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "place")
        place.mkdir()
        with contextlib.suppress(ArchiveError, OSError):
            made(bytes(data[:end]), place)
        assert [path.name for path in Path(folder).iterdir()] == ["place"]
        assert {path.name for path in place.iterdir()} <= {"copy"}
        assert all(path.resolve().is_relative_to(place) for path in place.rglob("*") if path.is_symlink())
