"""The program that makes sure of the installation's authority: the one part of a start that reads its key."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from sandhold.egress.certificates import Authority
from sandhold.errors import SbxError
from sandhold.session.children.authority import MESSAGE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(fds: Sequence[int]) -> None:
    """Answer the one order on the packet socket `fds[0]`: use or make the authority in a folder.

    Messages, one JSON object a packet. In: `{"folder": path}`. Out: `{"certificate": PEM}`, or
    `{"failed": text, "hint": text or null}`.
    """
    with socket.socket(fileno=fds[0]) as link:
        order = json.loads(link.recv(MESSAGE_BYTES_MAX))
        answer: dict[str, object]
        try:
            pem = Authority.load_or_create(Path(order["folder"])).certificate_pem
            answer = {"certificate": pem.decode("ascii")}
        except SbxError as error:
            answer = {"failed": error.message, "hint": error.hint}
        except OSError as error:
            answer = {"failed": str(error), "hint": None}
        link.send(json.dumps(answer).encode())
