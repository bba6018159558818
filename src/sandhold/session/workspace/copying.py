"""Copies between the host and a sandbox, through the cell: what runs inside is the sandbox's `tar`, as its own user.

Rules:

1. On the host no link is followed that the sandbox could have put there: below one of its folders, none at all. A path
   that the user typed is otherwise resolved as everywhere, to its last name.
2. Nothing inside is followed by us: the sandbox's `tar` reads and writes with the rights of a user inside.
3. What comes out is an attacker's archive (`session/workspace/archive.py`).
4. A sandbox that stops in the middle, or sends nothing for `SILENCE_S`, is an error.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import select
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from sandhold.errors import SbxError
from sandhold.linux.syscalls import AT_FDCWD, RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from sandhold.session import control
from sandhold.session.packets import UntakenError
from sandhold.session.terminals.replies import START_TIMEOUT_S
from sandhold.session.workspace.archive import CHUNK, ArchiveError, Copied, pack, unpack

# Says whether the target is a folder, before it takes the archive: its first name depends on that.
_UNPACK: Final = """
take() { exec tar --extract --file=- --no-same-owner --directory="$1"; }
if [ -d "$1" ]; then printf d; take "$1"; else printf f; take "$2"; fi
"""
_IS_FOLDER: Final = b"d"
_NO_LINKS: Final = "no link is followed below a folder that the sandbox sees"

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sandhold.model.sandbox import Mount, Sandbox

SILENCE_S: Final = 60.0  # of a `tar` that reads a slow disk; one that says nothing for so long is stuck
START_TRIES: Final = 5  # each meets a session that is ending; a sixth in a row is no coincidence
WORDS_MAX: Final = 500  # of what `tar` says when it fails


def copy_out(sandbox: Sandbox, reach: Callable[[], control.Channel], user: str, source: str, target: str) -> Copied:
    """Copy a file or folder of the sandbox to the host: into `target` where that is a folder, else as `target`.

    Raises:
        SbxError: when it is not there, cannot be made, or what comes is not what was asked for.
    """
    inside = _inside(sandbox, source)
    folder_inside, asked = posixpath.split(inside)
    if not asked:
        raise SbxError("the whole root of a sandbox is not copied", hint="name a folder in it")
    form = ("--format=gnu", "--hard-dereference", f"--directory={folder_inside}")
    argv = ("tar", "--create", "--file=-", *form, "--", asked)
    with (
        _on_host(sandbox.mounts, target, is_target=True) as (folder, name),
        _inside_folder(folder, name, asked) as (place, made),
    ):
        copied = _received(sandbox, reach, (argv, user), lambda read: unpack(read, place, asked, made))
    if not copied.files and not copied.folders and not copied.left_out:
        raise SbxError(f"`{sandbox.name}:{source}` cannot be copied: nothing came")
    return copied


def _received(
    sandbox: Sandbox,
    reach: Callable[[], control.Channel],
    command: tuple[tuple[str, ...], str],
    take: Callable[[Callable[[int], bytes]], Copied],
) -> Copied:
    """Run a command inside, given as its words and its user, and take what it writes."""
    with (
        _pipe() as pipe,
        open(os.devnull, "rb") as null,  # noqa: PTH123
        _running(reach, *command, (null.fileno(), pipe.writer.fileno())),
    ):
        pipe.writer.close()
        try:
            copied = take(lambda count: _read(pipe.reader, count))
            while _read(pipe.reader, CHUNK):  # what pads the archive
                continue
        except ArchiveError as error:
            raise SbxError(f"what `{sandbox.name}` sends cannot be copied: {error}") from error
    return copied


def copy_in(sandbox: Sandbox, reach: Callable[[], control.Channel], user: str, source: str, target: str) -> Copied:
    """Copy a file or folder of the host into the sandbox: into `target` where that is a folder, else as `target`.

    Raises:
        SbxError: when it cannot be read, or not be made inside.
    """
    inside = _inside(sandbox, target)
    argv = ("sh", "-c", _UNPACK, "sh", inside, posixpath.dirname(inside))
    with (
        _on_host(sandbox.mounts, source) as (folder, asked),
        _pipe() as archive,
        _pipe() as answer,
        _running(reach, argv, user, (archive.reader.fileno(), answer.writer.fileno())),
    ):
        archive.reader.close()
        answer.writer.close()
        made = asked if _read(answer.reader, 1) == _IS_FOLDER else posixpath.basename(inside)
        try:
            copied = pack(archive.writer, folder, asked, made)
        except BrokenPipeError:
            copied = Copied()  # why `tar` ended is what it says
        archive.writer.close()
    return copied


def _inside(sandbox: Sandbox, path: str) -> str:
    """Return a path inside in its plain form; a relative one begins in the workspace, as commands do."""
    if not path or "\0" in path:
        raise SbxError("a path inside is missing", hint="for example `sbx cp lab:notes.txt .`")
    return posixpath.normpath(posixpath.join(sandbox.workspace, path))


@contextlib.contextmanager
def _on_host(mounts: Sequence[Mount], text: str, *, is_target: bool = False) -> Iterator[tuple[int, str]]:
    """Open the folder that a path of the host's lies in, by rule 1; yields it with the path's last name.

    A target that is a link of the user's own is what it leads to.
    """
    path = Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 - `resolve` would follow every link
    here, names = Path("/"), list(path.parts[1:])
    while len(names) > (0 if is_target else 1) and not _is_seen(here, mounts):
        here = (here / names.pop(0)).resolve()
    if not names:
        here, names = here.parent, [here.name]
    if not names[-1]:
        raise SbxError("the whole root of this machine is not copied", hint="name a folder in it")
    rest = "/".join(names[:-1])
    try:
        top = openat2(AT_FDCWD, str(here), os.O_RDONLY | os.O_DIRECTORY, RESOLVE_NO_SYMLINKS)
        try:
            fd = openat2(top, rest or ".", os.O_RDONLY | os.O_DIRECTORY, RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH)
        finally:
            os.close(top)
    except OSError as error:
        raise SbxError(
            f"`{path.parent}` cannot be opened: {error.strerror or error}",
            hint=_NO_LINKS if error.errno == errno.ELOOP else None,
        ) from error
    try:
        yield fd, names[-1]
    except OSError as error:
        hint = _NO_LINKS if error.errno == errno.ELOOP else None
        raise SbxError(f"`{text}` cannot be copied: {error.strerror or error}", hint=hint) from error
    finally:
        os.close(fd)


@contextlib.contextmanager
def _inside_folder(folder: int, name: str, asked: str) -> Iterator[tuple[int, str]]:
    """Yield where to make what was asked for and under which name: in the folder of that name, if it is one."""
    try:
        fd = openat2(folder, name, os.O_RDONLY | os.O_DIRECTORY, RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH)
    except (FileNotFoundError, NotADirectoryError):
        yield folder, name
        return
    try:
        yield fd, asked
    finally:
        os.close(fd)


def _is_seen(path: Path, mounts: Sequence[Mount]) -> bool:
    """Whether a path of the host's is in a folder that the sandbox sees."""
    return any(path.is_relative_to(mount.path) for mount in mounts)


def _read(stream: IO[bytes], count: int) -> bytes:
    if not select.select([stream], [], [], SILENCE_S)[0]:
        raise ArchiveError(f"nothing came for {SILENCE_S:g} seconds")
    return stream.read(count)


@contextlib.contextmanager
def _running(
    reach: Callable[[], control.Channel], argv: tuple[str, ...], user: str, streams: tuple[int, int]
) -> Iterator[None]:
    """Run a command inside on an input and an output for the length of a `with`; it must succeed.

    Raises:
        SbxError: with the command's own words when it does not.
    """
    with _pipe() as words:
        with _started(reach, _request(argv, user), [*streams, words.writer.fileno()]) as channel:
            words.writer.close()
            try:
                yield
                status = _status(channel)
            except control.ChannelError as error:
                raise SbxError(f"the sandbox went away: {error}") from error
        if status != 0:
            raise SbxError(f"`tar` inside failed: {_words(words.reader) or f'status {status}'}")


def _started(reach: Callable[[], control.Channel], request: control.Start, streams: list[int]) -> control.Channel:
    """Start a command. A session that was just ending when we came answers nothing: try the next."""
    for _ in range(START_TRIES):
        channel = reach()
        try:
            channel.send(request, streams)
            reply, descriptors = channel.receive_reply(START_TIMEOUT_S)
        except UntakenError:
            channel.close()
            continue
        except control.ChannelError as error:
            channel.close()
            raise SbxError(f"the sandbox went away: {error}") from error
        assert not descriptors, "there is no terminal"
        if isinstance(reply, control.Started):
            return channel
        channel.close()
        raise SbxError(f"`sbx cp` needs `sh` and `tar` inside: {getattr(reply, 'detail', None) or reply}")
    raise SbxError("the session does not answer", hint="try again in a moment")


@dataclass(frozen=True, slots=True)
class _Pipe:
    """Both ends of a pipe."""

    reader: IO[bytes]
    writer: IO[bytes]


@contextlib.contextmanager
def _pipe() -> Iterator[_Pipe]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with open(reader, "rb", buffering=0) as read_end, open(writer, "wb", buffering=0) as write_end:  # noqa: PTH123
        yield _Pipe(read_end, write_end)


def _request(argv: tuple[str, ...], user: str) -> control.Start:
    return control.Start(argv, (), (("LC_ALL", "C.UTF-8"),), user, "/", wants_terminal=False)


def _status(channel: control.Channel) -> int:
    """Wait for a command's end.

    Raises:
        control.ChannelError: when it does not come, or the session is gone.
    """
    while True:
        reply, _ = channel.receive_reply(SILENCE_S)
        if isinstance(reply, control.Ended):
            return reply.status if reply.detail is None else 127


def _words(reader: IO[bytes]) -> str:
    os.set_blocking(reader.fileno(), False)
    return (reader.read(WORDS_MAX) or b"").decode("utf-8", "replace").strip()
