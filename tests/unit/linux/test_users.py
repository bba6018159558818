"""Maps of users and the files that grant them."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

import pytest

from sandhold.linux.users import IdRange, map_around, subordinate_range

if TYPE_CHECKING:
    from pathlib import Path

MAPS = {
    "a whole range": (65536, (IdRange(0, 100_000, 1000), IdRange(1000, 7, 1), IdRange(1001, 101_001, 64_535))),
    "a longer range is cut": (
        1 << 20,
        (IdRange(0, 100_000, 1000), IdRange(1000, 7, 1), IdRange(1001, 101_001, 64_535)),
    ),
    "a range that ends at the agent": (1001, (IdRange(0, 100_000, 1000), IdRange(1000, 7, 1))),
}


@pytest.mark.parametrize(("count", "ranges"), MAPS.values(), ids=MAPS.keys())
def test_the_agent_is_the_user_and_others_are_subordinate(count: int, ranges: tuple[IdRange, ...]) -> None:
    """The agent's id is the user's own, and no other id leaves the subordinate range."""
    assert map_around(1000, 7, 100_000, count) == ranges
    for line in ranges:
        assert line.outside == 7 or 100_000 <= line.outside <= line.outside + line.count <= 100_000 + count


NAME = pwd.getpwuid(os.geteuid()).pw_name
FILES = {
    "by name": (f"{NAME}:5:10\n", (5, 10)),
    "by number": (f"{os.geteuid()}:5:10\n", (5, 10)),
    "the largest of several": (f"{NAME}:5:10\n{NAME}:100:65536\n{NAME}:9:3\n", (100, 65536)),
    "of somebody else": ("nobody-else:5:10\n", None),
    "not a range": (f"{NAME}:x:10\n{NAME}:5\n{NAME}:-1:10\n", None),
    "empty": ("", None),
}


@pytest.mark.parametrize(("text", "found"), FILES.values(), ids=FILES.keys())
def test_subordinate_ranges_are_read(tmp_path: Path, text: str, found: tuple[int, int] | None) -> None:
    """A user's largest range counts; what is no range does not."""
    file = tmp_path / "subuid"
    file.write_text(text)
    assert subordinate_range(str(file), os.geteuid()) == found


def test_a_missing_file_grants_nothing(tmp_path: Path) -> None:
    """Without the file there is no range."""
    assert subordinate_range(str(tmp_path / "none"), os.geteuid()) is None
