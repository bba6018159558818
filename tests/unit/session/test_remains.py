"""What is left of a session in its sandbox's folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandhold.session import presence
from sandhold.session.ends import forget_word, leave_word
from sandhold.session.remains import is_in_order

if TYPE_CHECKING:
    from pathlib import Path


def test_whether_something_is_left(tmp_path: Path) -> None:
    """A folder is in order before the first session, and after one that had nothing to say; not in between."""
    assert is_in_order(str(tmp_path / "none"))
    assert is_in_order(str(tmp_path))
    with presence.hold(tmp_path):
        presence.write_marker(tmp_path, presence.Marker("id", 1, 1, 0.0))
        assert not is_in_order(str(tmp_path))
        presence.remove_marker(tmp_path)
    assert is_in_order(str(tmp_path))
    leave_word(tmp_path, "its egress process ended")
    assert not is_in_order(str(tmp_path))
    forget_word(tmp_path)
    assert is_in_order(str(tmp_path))
