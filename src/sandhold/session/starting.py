"""From a command on the host to a running session: found or started, and a connection to it.

A session is a process of its own, so that closing the terminal of one user ends only what that user attached.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandhold.errors import EXIT_NOT_HELD, SbxError
from sandhold.model.sandbox import Status
from sandhold.session import control, presence
from sandhold.session.ends import ENDING_TIMEOUT_S, has_ended, word_left
from sandhold.session.presence import AlreadyHeldError, hold

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sandhold.paths import Paths
    from sandhold.session.launching import Begun

STOP_TIMEOUT_S: Final = 60.0  # cut, a guest's unwritten data, kill, and the last records on disk
CONNECT_TRIES: Final = 200  # a session that is just starting or just ending, looked at every RETRY_S
RETRY_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Reached:
    """A connection to a running session. `lost` is the marker of a session that was found killed, None if none was;
    `died` is what is known of the end of one that ended by itself."""

    channel: control.Channel
    lost: presence.Marker | None
    was_started: bool
    died: str | None = None


def reach(paths: Paths, name: str, environ: Mapping[str, str], begun: Begun | None = None) -> Reached:
    """Connect to the session of a sandbox, which is started when it does not run.

    One that was `begun` already is waited for. When it does not start, that is as if it had not been begun: another
    is started, and says why.

    Raises:
        SbxError: when it cannot be held (exit status 125), or neither answers nor ends.
    """
    folder = paths.sandbox(name)
    was_started, lost, died = False, None, None
    if begun is not None:
        with contextlib.suppress(SbxError):
            was_started = begun.wait()
    for _ in range(CONNECT_TRIES):
        channel = control.connect(folder)
        if channel is not None:
            return Reached(channel, lost, was_started, died)
        found = presence.look(folder)
        if found.status is Status.RUNNING:
            time.sleep(RETRY_S)  # it is starting or ending: both have an end, and neither tells us
            continue
        lost, died = found.marker or lost, word_left(folder)
        from sandhold.session.launching import begin  # noqa: PLC0415  reaching what runs needs nothing of this

        was_started = begin(paths, name, environ).wait() or was_started
    raise SbxError(
        f"the session of `{name}` neither answers nor ends", hint=f"end it with `sbx stop {name}`", status=EXIT_NOT_HELD
    )


def stop(paths: Paths, name: str, actor: str) -> Status:
    """Stop a sandbox and return what it was: running, stopped or lost (then what was left is put in order).

    Raises:
        SbxError: when it does not stop in time, even killed.
    """
    folder = paths.sandbox(name)
    found = presence.look(folder)
    if found.status is Status.RUNNING:
        _stop_running(folder, found.marker, actor)
        if presence.look(folder).status is Status.RUNNING:
            raise SbxError(f"`{name}` does not stop", hint=f"see `sbx logs {name}`")
        clean_up(paths, name)
    elif found.status is Status.LOST:
        clean_up(paths, name)
    return found.status


def clean_up(paths: Paths, name: str) -> int | None:
    """Put in order what a killed session left; returns how many connections it had open, None if nothing was left."""
    from sandhold.session.recovery import recover  # noqa: PLC0415  reaching what runs needs nothing of this

    folder = paths.sandbox(name)
    try:
        with hold(folder):
            marker = presence.look(folder).marker
            return None if marker is None else recover(paths, name, marker, os.environ)
    except AlreadyHeldError:
        return None
    except OSError as error:
        raise SbxError(f"the end of `{name}` cannot be recorded: {error.strerror or error}") from error


def _stop_running(folder: Path, marker: presence.Marker | None, actor: str) -> None:
    """Ask; whoever does not stop is killed, which the kernel turns into an end of everything it started."""
    channel = _connect_when_started(folder)
    if channel is not None:
        with channel:
            try:
                channel.send(control.Stop(actor))
                channel.receive_reply(STOP_TIMEOUT_S)
            except control.ChannelError:
                pass  # the session hangs up when it has stopped
    if has_ended(folder, ENDING_TIMEOUT_S):
        return
    marker = presence.look(folder).marker or marker
    if marker is not None and presence.is_session(marker.pid, folder):
        os.kill(marker.pid, signal.SIGKILL)
        has_ended(folder, ENDING_TIMEOUT_S)


def _connect_when_started(folder: Path) -> control.Channel | None:
    """Connect to a session that may be starting still; None when it ends first or listens to nobody in time."""
    for _ in range(CONNECT_TRIES):
        channel = control.connect(folder)
        if channel is not None or presence.look(folder).status is not Status.RUNNING:
            return channel
        time.sleep(RETRY_S)
    return None
