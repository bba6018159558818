"""A command inside a running sandbox whose output we want, not the user."""

from __future__ import annotations

import os
import select
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandhold.session import control

if TYPE_CHECKING:
    from pathlib import Path

READ_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Captured:
    """How a command ended: its exit status, the start of its output, and why it could not be started, if so."""

    status: int
    output: bytes
    detail: str | None = None


def run_captured(folder: Path, request: control.Start, *, timeout_s: float, output_bytes_max: int) -> Captured:
    """Run a command in the session whose sandbox has this folder, without input; its errors go nowhere.

    Raises:
        control.ChannelError: when the session is gone or does not answer.
        TimeoutError: when the command takes longer; it has been told to end then.
    """
    channel = control.connect(folder)
    if channel is None:
        raise control.ChannelError("nobody listens")
    reader, writer = os.pipe2(os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    with channel:
        try:
            try:
                channel.send(request, [null, writer, null])
            finally:
                os.close(writer)
                os.close(null)
            return _collect(channel, reader, time.monotonic() + timeout_s, output_bytes_max)
        finally:
            os.close(reader)


def _collect(channel: control.Channel, reader: int, deadline: float, output_bytes_max: int) -> Captured:
    output = b""
    waited: list[control.Channel | int] = [channel, reader]
    while True:
        ready, _, _ = select.select(waited, [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError("the command did not end in time")
        if reader in ready:
            data = os.read(reader, READ_BYTES)
            output = (output + data)[:output_bytes_max]
            if not data:
                waited.remove(reader)
        elif channel in ready:  # after the pipe: what was written before the end is read by now
            reply, descriptors = channel.receive_reply(control.SEND_TIMEOUT_S)
            for descriptor in descriptors:
                os.close(descriptor)
            match reply:
                case control.Ended(status, detail):
                    return Captured(status, output, detail)
                case control.Failed(message):
                    return Captured(-1, output, message)
                case _:
                    continue
