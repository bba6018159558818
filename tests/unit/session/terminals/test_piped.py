"""Commands without a terminal, and sessions that do not answer as they should."""

from __future__ import annotations

import socket
import threading
from contextlib import closing

import pytest

from sandhold.session import packets
from sandhold.session.terminals.copies import CUT_OFF, NO_ANSWER, Outcome
from sandhold.session.terminals.piped import run_piped

ANSWERS = {
    "it ends": ((b'{"type":"started","pid":1}', b'{"type":"ended","status":3,"detail":null}'), Outcome(3)),
    "it cannot be started": ((b'{"type":"ended","status":127,"detail":"x: no"}',), Outcome(127, "x: no")),
    "the session refuses": ((b'{"type":"failed","message":"full"}',), Outcome(125, "full")),
    "the session hangs up while it runs": ((b'{"type":"started","pid":1}',), CUT_OFF),
    "an answer to another question": ((b'{"type":"done"}',), NO_ANSWER),
    "a status that is no number": ((b'{"type":"ended","status":"0","detail":null}',), NO_ANSWER),
    "no object": ((b"[]",), NO_ANSWER),
}

NO_ANSWERS = {"nothing": (), "no JSON": (b"{",), "brackets without end": (b"[" * 100_000,)}


def _outcome_of(answers: tuple[bytes, ...]) -> Outcome:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def answer() -> None:
        with theirs:
            _, descriptors = packets.receive(theirs, packets.SEND_TIMEOUT_S)
            packets.close_all(descriptors)
            for each in answers:
                packets.send(theirs, each)

    session = threading.Thread(target=answer)
    session.start()
    try:
        with closing(ours):
            return run_piped(ours, b"{}", wants_input=False)
    finally:
        session.join()


@pytest.mark.parametrize(("answers", "outcome"), ANSWERS.values(), ids=ANSWERS)
def test_how_it_ends(answers: tuple[bytes, ...], outcome: Outcome) -> None:
    """Whatever a session answers is an end in words."""
    assert _outcome_of(answers) == outcome


@pytest.mark.parametrize("answers", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_no_answer(answers: tuple[bytes, ...]) -> None:
    """A session that does not answer the request is told apart: the next one can be asked."""
    with pytest.raises(packets.ChannelError):
        _outcome_of(answers)
