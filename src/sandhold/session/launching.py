"""A session's process, begun and waited for: two steps, so that whoever begins one can get ready meanwhile."""

from __future__ import annotations

import json
import os
import select
import time
from typing import TYPE_CHECKING, Final

from sandhold.errors import EXIT_NOT_HELD, SbxError
from sandhold.linux.process import spawn_program
from sandhold.session.log import open_log
from sandhold.session.presence import SESSION_MODULE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandhold.linux.process import Child
    from sandhold.paths import Paths

START_TIMEOUT_S: Final = (
    300.0  # a cell's own patience comes first (`cell/machine/microvm.py`), this is for what it misses
)
END_TIMEOUT_S: Final = 60.0  # of one that failed: what it began is cut, killed and put on record

_ENVIRONMENT: Final = (
    "HOME", "PATH", "USER", "LOGNAME", "LANG", "TZ", "SSL_CERT_FILE",
    "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy",
    "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME",
)  # fmt: skip


class Begun:
    """A session's process that may be starting still; owns the descriptor on which it says how that went."""

    def __init__(self, sandbox: str, child: Child, reader: int) -> None:
        self._sandbox = sandbox
        self._child = child
        self._reader = reader

    def wait(self) -> bool:
        """Wait until commands can be started in it; False when another one holds the sandbox.

        Raises:
            SbxError: when it did not start.
        """
        try:
            answer = _answer(self._reader)
        finally:
            os.close(self._reader)
        if answer.get("ready"):
            self._child.forget()
            return True
        if answer.get("held"):
            self._child.wait(START_TIMEOUT_S)
            return False
        self._child.kill()
        self._child.wait(END_TIMEOUT_S)
        raise SbxError(
            str(answer.get("error") or f"the session of `{self._sandbox}` did not start"),
            hint=str(answer.get("hint") or f"`sbx logs {self._sandbox}` may say why"),
            status=EXIT_NOT_HELD,
        )


def begin(paths: Paths, name: str, environ: Mapping[str, str]) -> Begun:
    """Begin a session for the sandbox of that name.

    Raises:
        OSError: when no process can be started.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    log = environment = -1
    try:
        log = open_log(paths.sandbox(name))
        environment = _environment_file(environ)
        given = {
            "state": str(paths.state),
            "data": str(paths.data),
            "config": str(paths.config),
            "name": name,
            "ready": writer,
            "environment": environment,
        }
        child = spawn_program(SESSION_MODULE, [json.dumps(given)], fds=[writer, environment], log=log)
    except BaseException:
        os.close(reader)
        raise
    finally:
        for descriptor in (writer, log, environment):
            if descriptor >= 0:
                os.close(descriptor)
    return Begun(name, child, reader)


def _environment_file(environ: Mapping[str, str]) -> int:
    """Return a descriptor of what a session gets of the user's environment, as JSON; its own is empty."""
    passed = {variable: environ[variable] for variable in _ENVIRONMENT if variable in environ}
    descriptor = os.memfd_create("environment", os.MFD_CLOEXEC)
    os.pwrite(descriptor, json.dumps(passed).encode(), 0)
    return descriptor


def _answer(reader: int) -> dict[str, object]:
    """Read what the session says of its start until it closes the descriptor; nothing when it says nothing in time."""
    deadline = time.monotonic() + START_TIMEOUT_S
    said = b""
    while (left_s := deadline - time.monotonic()) > 0 and select.select([reader], [], [], left_s)[0]:
        data = os.read(reader, 4096)
        if not data:
            break
        said += data
    try:
        answer = json.loads(said)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
