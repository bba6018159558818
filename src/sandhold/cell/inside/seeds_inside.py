"""Seeds: what a start puts into the layer itself, where a package's own script may replace it later.

Rules:

1. Seeds are sown while nothing but the layer can be reached: before workspaces, `/proc` and devices are there. A link
   that was left inside by an earlier run leads into the layer at most.
2. A file appears whole or not at all, and belongs to whom it is for.
3. What an earlier run left in the way (a folder, a pipe, a file too large to be one of these) is left alone: the layer
   is the sandbox's own, and it may do without. So is what root inside may not write, which are the host's own folders
   in the host kind of template of an ordinary user.
"""

# System calls in a root of our own, where pathlib has no words for descriptors and links.
# ruff: noqa: PTH102, PTH104, PTH108, PTH112, PTH119, PTH120, PTH123, PTH211

from __future__ import annotations

import base64
import contextlib
import os
import re
import stat
from typing import TYPE_CHECKING, Final

from sandhold.cell.spec import Seeding

if TYPE_CHECKING:
    from sandhold.cell.plan import PlannedSeed

FILE_BYTES_MAX: Final = 16 << 20  # of a file that a seed may add to: bundles have a quarter of a megabyte

_PEM_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z ]+)-----[^-]+-----END \1-----")


def sow(seed: PlannedSeed, owner: int) -> None:
    """Put one seed into the root that this process stands in; `owner` is the id that it belongs to.

    Raises:
        OSError: when the layer cannot be written.
    """
    place = os.path.realpath(os.path.dirname(seed.path))
    path = f"{place}/{os.path.basename(seed.path)}"
    content, seeding = base64.b64decode(seed.content), Seeding(seed.seeding)
    with contextlib.suppress(PermissionError):
        if seeding is Seeding.LINK:
            _link(path, content, owner)
        elif seeding is Seeding.CREATE:
            _create(path, content, owner)
        elif seeding is Seeding.APPEND:
            _append(os.path.realpath(path), content, owner)
        else:
            _replace(os.path.realpath(path), content, base64.b64decode(seed.marker), owner)


def with_missing_blocks(found: bytes, wanted: bytes) -> bytes:
    """Return `found` with each PEM block (RFC 7468) of `wanted` after it that it lacks."""
    there = {block.group() for block in _PEM_BLOCK.finditer(found)}
    missing = [block.group() for block in _PEM_BLOCK.finditer(wanted) if block.group() not in there]
    if not missing:
        return found
    return b"".join(
        [found, b"" if found.endswith(b"\n") or not found else b"\n", *(block + b"\n" for block in missing)]
    )


def _link(path: str, target: bytes, owner: int) -> None:
    if _make_folder(os.path.dirname(path), owner):
        if _is_empty(path):
            os.unlink(path)
        with contextlib.suppress(FileExistsError):
            os.symlink(target, path)
            os.chown(path, owner, owner, follow_symlinks=False)


def _create(path: str, content: bytes, owner: int) -> None:
    if _make_folder(os.path.dirname(path), owner) and (_is_empty(path) or not os.path.lexists(path)):
        _write(path, content, owner)


def _is_empty(path: str) -> bool:
    """Whether an empty file stands there, which is what a mount leaves behind in a layer."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


def _append(path: str, content: bytes, owner: int) -> None:
    try:
        found = _read(path)
    except FileNotFoundError:
        if _make_folder(os.path.dirname(path), owner):
            _write(path, content, owner)
        return
    if found is not None and (wanted := with_missing_blocks(found, content)) != found:
        _write(path, wanted, owner)


def _replace(path: str, content: bytes, marker: bytes, owner: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        found = _read(path)
        if found is not None and marker not in found:
            _write(path, content, owner)


def _read(path: str) -> bytes | None:
    """Return a file's bytes, or None for what is no file that a seed may touch (rule 3)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    with open(fd, "rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    return data if len(data) <= FILE_BYTES_MAX else None


def _make_folder(path: str, owner: int) -> bool:
    """Make a folder and its parents where missing; False when something else stands there."""
    if os.path.isdir(path):
        return True
    if os.path.lexists(path) or not _make_folder(os.path.dirname(path), owner):
        return False
    os.mkdir(path, 0o755)
    os.chown(path, owner, owner, follow_symlinks=False)
    return True


def _write(path: str, content: bytes, owner: int) -> None:
    new = f"{path}.{os.urandom(4).hex()}"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        os.fchown(fd, owner, owner)
        os.fchmod(fd, 0o644)
    os.rename(new, path)
