"""Archives that cross between a sandbox and the host, in the format of tar(5), GNU: read as what an attacker wrote.

Rules:

1. A member's path begins with the one name that was asked for, and has no `..`, no empty part and no zero byte.
2. Everything is made below one folder, held open: parents are opened without following any link (openat2(2)), files are
   new ones, so that nothing that stands there, a link least of all, is written through.
3. Files, folders and links are made, without set-id bits. A link is made when it stays inside of what is copied: it is
   relative, and `..` stands only at its start. Anything else (devices, pipes, hard links) is left out and said.
4. `MEMBERS_MAX`, `BYTES_MAX`, `DEPTH_MAX` and `LONG_NAME_MAX` are the limits; reaching one is an error.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Final

from sandhold.linux.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEMBERS_MAX: Final = 1_000_000
BYTES_MAX: Final = 64 << 30  # of one copy; a disk image, not a joke
DEPTH_MAX: Final = 100
LONG_NAME_MAX: Final = 4096  # PATH_MAX (linux/limits.h)
LEFT_OUT_MAX: Final = 1000  # that are named; the rest is counted
BLOCK: Final = 512
CHUNK: Final = 1 << 20

_LONG_NAME, _LONG_LINK = b"L", b"K"
_FILE, _OLD_FILE, _LINK, _FOLDER = b"0", b"\0", b"2", b"5"


class ArchiveError(Exception):
    """What came is no archive of what was asked for, or is larger than allowed."""


@dataclass(slots=True)
class Copied:
    """What was copied, and what was left out and why."""

    files: int = 0
    folders: int = 0
    size: int = 0
    left_out: list[str] = field(default_factory=list)
    more_left_out: int = 0

    def leave_out(self, path: str, why: str) -> None:
        """Note something that is not copied."""
        if len(self.left_out) < LEFT_OUT_MAX:
            self.left_out.append(f"{path}: {why}")
        else:
            self.more_left_out += 1


@dataclass(frozen=True, slots=True)
class _Member:
    """What the header of one member says."""

    path: str
    kind: bytes
    mode: int
    size: int
    target: str


def unpack(read: Callable[[int], bytes], folder: int, asked: str, name: str) -> Copied:
    """Make what an archive holds below an open folder, by the rules; `asked` is its first name, made as `name`.

    `read` returns at most so many bytes, none at the end.

    Raises:
        ArchiveError: when it breaks a rule; what was made so far stays.
        OSError: when something cannot be made.
    """
    stream = _Stream(read)
    copied = Copied()
    modes: list[tuple[str, int]] = []
    for _ in range(MEMBERS_MAX):
        member = _next(stream)
        if member is None:
            _set_modes(folder, modes)
            return copied
        path = "/".join([name, *_names(member.path, asked)[1:]])
        if member.kind in (_FILE, _OLD_FILE):
            _make_file(folder, path, member, stream)
            copied.files, copied.size = copied.files + 1, copied.size + member.size
        elif member.kind == _FOLDER:
            _make_folder(folder, path)
            modes.append((path, member.mode))
            copied.folders += 1
        elif member.kind == _LINK and _stays_inside(path, member.target):
            _make_link(folder, path, member.target)
            copied.files += 1
        else:
            copied.leave_out(path, "a link that leads out" if member.kind == _LINK else "no file, folder or link")
            stream.skip(member.size)
    raise ArchiveError(f"more than {MEMBERS_MAX} files")


def pack(write: IO[bytes], folder: int, asked: str, name: str) -> Copied:
    """Write an archive of what `asked` names in an open folder, as `name`; no link is followed.

    Raises:
        OSError: when something cannot be read, or nobody takes the archive any more.
    """
    copied = Copied()
    with tarfile.open(fileobj=write, mode="w|", format=tarfile.GNU_FORMAT, bufsize=CHUNK) as archive:
        _pack(archive, folder, asked, name, copied)
    return copied


def _pack(archive: tarfile.TarFile, folder: int, asked: str, name: str, copied: Copied) -> None:
    status = os.stat(asked, dir_fd=folder, follow_symlinks=False)
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = stat.S_IMODE(status.st_mode) & 0o777, int(status.st_mtime)
    if stat.S_ISREG(status.st_mode):
        fd = os.open(asked, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        with open(fd, "rb") as file:  # noqa: PTH123 - pathlib opens no descriptors
            info.size = os.fstat(fd).st_size
            archive.addfile(info, file)
        copied.files, copied.size = copied.files + 1, copied.size + info.size
    elif stat.S_ISLNK(status.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(asked, dir_fd=folder)
        archive.addfile(info)
        copied.files += 1
    elif stat.S_ISDIR(status.st_mode):
        info.type = tarfile.DIRTYPE
        archive.addfile(info)
        copied.folders += 1
        if name.count("/") >= DEPTH_MAX:
            raise OSError(f"`{name}` is deeper than {DEPTH_MAX} folders")
        inner = os.open(asked, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            for each in sorted(os.listdir(inner)):  # noqa: PTH208 - pathlib lists no descriptors
                _pack(archive, inner, each, f"{name}/{each}", copied)
        finally:
            os.close(inner)
    else:
        copied.leave_out(name, "no file, folder or link")


class _Stream:
    """The bytes of an archive, read once and counted."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._count = 0

    def take(self, count: int) -> bytes:
        """Return exactly so many bytes, nothing at a clean end.

        Raises:
            ArchiveError: when it ends in between, or is too large.
        """
        parts: list[bytes] = []
        left = count
        while left:
            part = self._read(min(left, CHUNK))
            if not part:
                if left == count:
                    return b""
                raise ArchiveError("it ends in the middle of a file")
            self._count += len(part)
            if self._count > BYTES_MAX:
                raise ArchiveError(f"it is larger than {BYTES_MAX >> 30} GiB")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def content(self, size: int) -> bytes:
        """Return a small member's content; what pads it to a block is passed over."""
        if size > LONG_NAME_MAX:
            raise ArchiveError("a name that is too long")
        return self.take(-(-size // BLOCK) * BLOCK)[:size]

    def skip(self, size: int) -> None:
        """Pass over a member's content."""
        self.copy(size, lambda _: None)

    def copy(self, size: int, sink: Callable[[bytes], object]) -> None:
        """Give a member's content to `sink`, a piece at a time."""
        left, padding = size, -size % BLOCK
        while left:
            piece = self.take(min(left, CHUNK))
            if not piece:
                raise ArchiveError("it ends in the middle of a file")
            sink(piece)
            left -= len(piece)
        if padding and len(self.take(padding)) != padding:
            raise ArchiveError("it ends in the middle of a file")


def _next(stream: _Stream) -> _Member | None:
    """Read the next header, with the long names that stand before it; None at the end."""
    long_name = long_link = None
    while True:
        header = stream.take(BLOCK)
        if not header.strip(b"\0"):
            return None
        kind, size = header[156:157], _number(header[124:136])
        if int(_octal(header[148:156])) != sum(header[:148]) + 8 * 0x20 + sum(header[156:]):
            raise ArchiveError("a header that is damaged")
        if kind == _LONG_NAME:
            long_name = stream.content(size)
        elif kind == _LONG_LINK:
            long_link = stream.content(size)
        else:
            break
    path = long_name if long_name is not None else header[:100]
    target = long_link if long_link is not None else header[157:257]
    has_content = kind in (_FILE, _OLD_FILE)
    mode = _octal(header[100:108]) & 0o777
    return _Member(_text(path), kind, mode, size if has_content or kind not in (_LINK, _FOLDER) else 0, _text(target))


def _number(raw: bytes) -> int:
    """Read a size: octal, or base 256 when its first bit is set (GNU)."""
    value = int.from_bytes(raw, "big") - (0x80 << 8 * (len(raw) - 1)) if raw[0] & 0x80 else _octal(raw)
    if value > BYTES_MAX:
        raise ArchiveError(f"it is larger than {BYTES_MAX >> 30} GiB")
    return value


def _octal(raw: bytes) -> int:
    text = raw.rstrip(b" \0").lstrip(b" ")
    if not text:
        return 0
    if not all(0x30 <= digit <= 0x37 for digit in text):
        raise ArchiveError("a number that is none")
    return int(text, 8)


def _text(raw: bytes) -> str:
    return os.fsdecode(raw.split(b"\0")[0])


def _names(path: str, asked: str) -> list[str]:
    """Rule 1."""
    names = path.removeprefix("./").rstrip("/").split("/")
    if names[0] != asked or any(name in ("", ".", "..") for name in names) or len(names) > DEPTH_MAX:
        raise ArchiveError("a path that is not of what was asked for")
    return names


def _stays_inside(path: str, target: str) -> bool:
    """Rule 3: leading `..` are exact because the link's own folder is a real one."""
    names = target.rstrip("/").split("/")
    ups = next((count for count, name in enumerate(names) if name != ".."), len(names))
    return bool(target) and all(name not in ("", "..") for name in names[ups:]) and ups < path.count("/")


def _make_file(folder: int, path: str, member: _Member, stream: _Stream) -> None:
    with _parent(folder, path) as (parent, name):
        _make_room(parent, name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o600, dir_fd=parent), "wb") as file:  # noqa: PTH123
            stream.copy(member.size, file.write)
            os.fchmod(file.fileno(), member.mode)


def _make_folder(folder: int, path: str) -> None:
    with _parent(folder, path) as (parent, name), contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)  # one that is there is filled; a link in its place is not entered later


def _make_link(folder: int, path: str, target: str) -> None:
    with _parent(folder, path) as (parent, name):
        _make_room(parent, name)
        os.symlink(target, name, dir_fd=parent)


def _make_room(parent: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)


def _set_modes(folder: int, modes: list[tuple[str, int]]) -> None:
    """Give folders their modes once they are filled; the owner can always enter."""
    for path, mode in reversed(modes):
        with _parent(folder, path) as (parent, name):
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                os.fchmod(fd, mode | stat.S_IRWXU)
            finally:
                os.close(fd)


@contextlib.contextmanager
def _parent(folder: int, path: str) -> Iterator[tuple[int, str]]:
    """Open the folder that a path below `folder` lies in, by rule 2."""
    above, _, name = path.rpartition("/")
    fd = openat2(folder, above or ".", os.O_RDONLY | os.O_DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    try:
        yield fd, name
    finally:
        os.close(fd)
