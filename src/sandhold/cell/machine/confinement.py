"""What a process beside a machine gives up before it reads a word of the guest's."""

from __future__ import annotations

import os
import signal

from sandhold.linux.syscalls import die_with_parent, forbid_dumping, no_new_privileges


def confine(user: int | None, parent: int) -> bool:
    """Become a user that owns nothing (None: stay who we are), gain no rights any more, let nobody of that user look
    in, and end with the process that made this one; False when that has ended already."""
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    no_new_privileges()
    forbid_dumping()
    die_with_parent(signal.SIGKILL)
    return os.getppid() == parent
