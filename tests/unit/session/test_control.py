"""Messages between commands on the host and a session."""

from __future__ import annotations

import socket

import pytest

from sandhold.session import control

WORDS = {
    "bytes that are no UTF-8 come out as they went in": ("printf", "\udcff"),
    "a newline and a quote are only characters": ("a\nb", '"'),
    "letters beyond ASCII": ("naïve", "文"),
}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_any_argument_crosses(words: tuple[str, ...]) -> None:
    """Whatever the kernel takes as an argument reaches the session unchanged."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with control.Channel(ours) as sender, control.Channel(theirs) as receiver:
        sent = control.Start(words, (), (), "agent", None, wants_terminal=False)
        sender.send(sent)
        assert receiver.receive_request() == (sent, [])


PACKETS = {
    "no JSON": b"{",
    "no object": b"7",
    "no known kind": b'{"type": "launch"}',
    "a field of another kind": b'{"type": "signal", "signum": "nine"}',
    "brackets without end": b"[" * 100_000,
    "no UTF-8": b"\xff",
}


@pytest.mark.parametrize("packet", PACKETS.values(), ids=PACKETS)
def test_what_is_no_request(packet: bytes) -> None:
    """A packet that is no request is an error of the channel and of nothing else."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, control.Channel(theirs) as receiver:
        ours.send(packet)
        with pytest.raises(control.ChannelError):
            receiver.receive_request()
