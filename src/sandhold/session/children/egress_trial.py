"""Asks egress a question from inside the cell before any command starts there: without an answer, none does."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final

from sandhold.model.cell_addresses import DNS_PORT, GATEWAY_IPV4, GATEWAY_NAME
from sandhold.session.children.egress_process import EgressError

if TYPE_CHECKING:
    import socket

ANSWER_TIMEOUT_S: Final = 5.0  # takes a millisecond; egress has said that it listens
ANSWER_BYTES_MAX: Final = 512  # RFC 1035 section 2.3.4
_HEADER: Final = struct.Struct("!HHHHHH")  # RFC 1035 section 4.1.1
_A_IN: Final = struct.pack("!HH", 1, 1)


def ask_egress(asker: socket.socket) -> None:
    """Ask for the address of the cell's own gateway, a name that leaves no record, over a datagram socket inside.

    Raises:
        EgressError: when no answer comes in time, or another.
    """
    identity = int.from_bytes(os.urandom(2))
    labels = b"".join(bytes([len(label)]) + label.encode("ascii") for label in GATEWAY_NAME.split("."))
    question = _HEADER.pack(identity, 0x0100, 1, 0, 0, 0) + labels + b"\0" + _A_IN
    asker.settimeout(ANSWER_TIMEOUT_S)
    try:
        asker.sendto(question, (str(GATEWAY_IPV4), DNS_PORT))
        answer = asker.recv(ANSWER_BYTES_MAX)
    except OSError as error:
        raise EgressError(f"egress does not answer inside the sandbox: {error}") from error
    if int.from_bytes(answer[:2]) != identity or GATEWAY_IPV4.packed not in answer:
        raise EgressError("egress answers inside the sandbox with something else than was asked for")
