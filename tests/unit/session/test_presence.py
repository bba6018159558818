"""What a session's marker says when it says nothing sensible."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandhold.model.sandbox import Status
from sandhold.session import presence
from sandhold.session.ends import leave_word

if TYPE_CHECKING:
    from pathlib import Path

GARBAGE = {
    "empty": b"",
    "cut off": b'{"session": "x", "pid": 1',
    "another kind of value": b'{"session": 1, "pid": [], "generation": 1, "started_at": 0}',
    "a number without end": b'{"session": "x", "pid": 1e999, "generation": 1, "started_at": 0}',
    "brackets without end": b"[" * 4096,
    "no UTF-8": b"\xff\xfe",
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_a_marker_that_says_nothing(tmp_path: Path, content: bytes) -> None:
    """Whatever the marker holds, something ran here and was lost; looking at it never fails."""
    (tmp_path / "session.json").write_bytes(content)
    found = presence.look(tmp_path)
    assert found.status is Status.LOST
    assert found.marker is not None
    assert found.marker.session in ("unknown", "1")


def test_a_marker_that_is_a_folder(tmp_path: Path) -> None:
    """A folder in the marker's place is a marker that says nothing."""
    (tmp_path / "session.json").mkdir()
    assert presence.look(tmp_path).status is Status.LOST


def test_one_holder(tmp_path: Path) -> None:
    """Of two sessions one holds the sandbox, and it is free when that one ends."""
    with presence.hold(tmp_path):
        assert presence.look(tmp_path).status is Status.RUNNING
        with pytest.raises(presence.AlreadyHeldError), presence.hold(tmp_path):
            pass
    assert presence.look(tmp_path).status is Status.STOPPED


def test_a_word_of_the_end_is_seen(tmp_path: Path) -> None:
    """One look tells whether a session left a word of its end, and finds nothing where no sandbox has a folder."""
    assert presence.look(str(tmp_path / "none")) == presence.STOPPED
    assert presence.look(str(tmp_path)) == presence.STOPPED
    leave_word(tmp_path, "its egress process ended")
    assert presence.look(tmp_path) == presence.Presence(Status.STOPPED, None, has_word=True)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        presence.look(tmp_path / "file")
