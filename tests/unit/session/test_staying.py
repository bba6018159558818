"""Whether a session goes on without whoever asks."""

from __future__ import annotations

import select
import threading
from typing import TYPE_CHECKING

import pytest

from sandhold.session import control
from sandhold.session.staying import stays

if TYPE_CHECKING:
    from pathlib import Path

ANSWER_TIMEOUT_S = 60.0
STATE = control.State("id", 1, 0, is_kept=False, notes=(), stays=True)
ANSWERS = {
    "it has more to do": (control.encoded(STATE), True),
    "it ends": (control.encoded(control.State("id", 1, 0, is_kept=False, notes=(), stays=False)), False),
    "an answer to another question": (b'{"type":"done"}', False),
    "no object": (b"[1]", False),
    "no JSON": (b"{", False),
    "nothing": (b"", False),
}


@pytest.mark.parametrize(("answer", "expected"), ANSWERS.values(), ids=ANSWERS)
def test_what_it_says(tmp_path: Path, answer: bytes, expected: bool) -> None:  # noqa: FBT001 - a case
    """Only a session that says so stays."""
    asked: list[control.Request] = []

    def answer_once() -> None:
        assert select.select([listener.fileno()], [], [], ANSWER_TIMEOUT_S)[0]
        channel = listener.accept()
        assert channel is not None
        with channel:
            asked.append(channel.receive_request()[0])
            if answer:
                channel.socket.send(answer)

    with control.Listener(tmp_path) as listener:
        session = threading.Thread(target=answer_once)
        session.start()
        assert stays(tmp_path, meanwhile=list) is expected
        session.join()
    assert asked == [control.Ask()]
    assert not stays(tmp_path, meanwhile=list)  # nobody listens


def test_what_is_done_meanwhile(tmp_path: Path) -> None:
    """Who has to wait longer than a session that stays takes has something to do meanwhile, once."""
    done = []
    with control.Listener(tmp_path) as listener:

        def meanwhile() -> None:
            done.append("something")
            channel = listener.accept()
            assert channel is not None
            channel.receive_request()
            channel.send(STATE)
            channel.close()

        assert stays(tmp_path, meanwhile)
    assert done == ["something"]
