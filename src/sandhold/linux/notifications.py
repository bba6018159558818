"""Questions of a seccomp filter to a supervisor. seccomp_unotify(2)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import struct
from dataclasses import dataclass
from typing import Final

from sandhold.linux.syscall_numbers import AUDIT_ARCHITECTURES, NUMBERS
from sandhold.linux.syscalls import Machine

_RECEIVE: Final = 0xC0502100  # SECCOMP_IOCTL_NOTIF_RECV
_SEND: Final = 0xC0182101  # SECCOMP_IOCTL_NOTIF_SEND
_ID_VALID: Final = 0x40082102  # SECCOMP_IOCTL_NOTIF_ID_VALID
_NOTIFICATION: Final = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
_RESPONSE: Final = struct.Struct("=QqiI")  # struct seccomp_notif_resp


@dataclass(frozen=True, slots=True)
class Question:
    """One call that waits for its answer; `pid` is the caller's, a thread's number. `call` is its name or empty."""

    id: int
    pid: int
    call: str
    arguments: tuple[int, ...]


def receive(listener: int) -> Question | None:
    """Take the next question; None when its caller has gone meanwhile."""
    buffer = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    number, pid, _flags, call, architecture, _pointer, *arguments = _NOTIFICATION.unpack(buffer)
    machine = Machine.here().name
    names = [name for name, known in NUMBERS[machine].items() if known == call]
    known_here = architecture == AUDIT_ARCHITECTURES[machine] and names
    return Question(number, pid, names[0] if known_here else "", tuple(arguments))


def reply(listener: int, question: Question, error: int) -> None:
    """Let the call return 0, or fail with an error number; nothing happens when its caller has gone."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(listener, _SEND, _RESPONSE.pack(question.id, 0, -error, 0))


def is_still_asked(listener: int, question: Question) -> bool:
    """Whether the caller still waits: only then is what was read under its pid its own."""
    try:
        fcntl.ioctl(listener, _ID_VALID, struct.pack("=Q", question.id))
    except OSError:
        return False
    return True
