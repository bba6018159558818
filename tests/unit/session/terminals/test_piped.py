"""Commands without a terminal, and sessions that do not answer as they should."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import closing

import pytest

from sandhold.session import packets
from sandhold.session.terminals import replies
from sandhold.session.terminals.copies import CUT_OFF, NO_ANSWER, Outcome
from sandhold.session.terminals.piped import run_piped
from sandhold.session.terminals.terminal import attach

ANSWERS = {
    "it ends": ((b'{"type":"started","pid":1}', b'{"type":"ended","status":3,"detail":null}'), Outcome(3)),
    "it cannot be started": ((b'{"type":"ended","status":127,"detail":"x: no"}',), Outcome(127, "x: no")),
    "the session refuses": ((b'{"type":"failed","message":"full"}',), Outcome(125, "full")),
    "the session hangs up while it runs": ((b'{"type":"started","pid":1}',), CUT_OFF),
    "the session takes the request and hangs up": ((), CUT_OFF),
    "an answer to another question": ((b'{"type":"done"}',), NO_ANSWER),
    "a status that is no number": ((b'{"type":"ended","status":"0","detail":null}',), NO_ANSWER),
    "no object": ((b"[]",), NO_ANSWER),
    "no JSON": ((b"{",), NO_ANSWER),
    "brackets without end": ((b"[" * 100_000,), NO_ANSWER),
}


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


def test_a_request_that_nobody_took() -> None:
    """A session that goes away without having read the request is told apart: the next one can be asked."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asking = threading.Thread(target=select.select, args=([theirs], [], [], packets.SEND_TIMEOUT_S))
    asking.start()

    def leave() -> None:
        asking.join()
        theirs.close()

    leaving = threading.Thread(target=leave)
    leaving.start()
    with closing(ours), pytest.raises(packets.UntakenError):
        run_piped(ours, b"{}", wants_input=False)
    leaving.join()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    with closing(ours), pytest.raises(packets.UntakenError):
        run_piped(ours, b"{}", wants_input=False)


@pytest.mark.parametrize("wants_terminal", [False, True], ids=["pipes", "terminal"])
def test_a_request_that_is_too_long(*, wants_terminal: bool) -> None:
    """What a session would not read whole is not sent to one, and the user is told what is wrong with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(ours), closing(theirs):
        request = bytes(packets.MESSAGE_BYTES_MAX + 1)
        assert attach(ours, request, wants_terminal=wants_terminal, wants_input=False) == replies.TOO_LONG
        assert select.select([theirs], [], [], 0)[0] == []


def test_a_session_that_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that took the request and says nothing may have started the command: that is an end in words."""
    monkeypatch.setattr(replies, "START_TIMEOUT_S", 0.05)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(ours), closing(theirs):
        assert run_piped(ours, b"{}", wants_input=False) == replies.NO_WORD
