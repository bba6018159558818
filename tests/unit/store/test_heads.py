"""Heads kept outside: one line each, read back as they were written, and never guessed at."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sandhold.store import heads
from sandhold.store.heads import HeadsUnreadableError, append_head, head_line, read_heads
from sandhold.store.records import Head
from tests.unit.store.samples import NOON

if TYPE_CHECKING:
    from pathlib import Path

FIRST, SECOND = Head(9, "a" * 64), Head(12, "b" * 64)


def test_written_and_read(tmp_path: Path) -> None:
    """Heads of several trails in one file come back, each under its trail, in their order; comments are passed over."""
    path = tmp_path / "heads"
    for trail, head in [("lab", FIRST), ("_policy", SECOND), ("lab", SECOND)]:
        append_head(path, head_line(trail, head, NOON))
    path.write_text("# from the first machine\n\n" + path.read_text())
    assert read_heads(path) == {"lab": (FIRST, SECOND), "_policy": (SECOND,)}
    assert path.stat().st_mode & 0o777 == 0o600


def test_form() -> None:
    """A line names time, trail, number and hash, and ends there."""
    assert head_line("lab", FIRST, NOON) == f"2026-01-01T12:00:00.000000Z lab 9 sha256:{'a' * 64}\n"


NO_HEADS = {
    "words": "hello\n",
    "half a line": f"2026-01-01T12:00:00Z lab 9 sha256:{'a' * 63}\n",
    "number zero, which no record has": f"2026-01-01T12:00:00Z lab 0 sha256:{'a' * 64}\n",
    "a name that is a path": f"2026-01-01T12:00:00Z ../lab 9 sha256:{'a' * 64}\n",
    "more behind it": f"2026-01-01T12:00:00Z lab 9 sha256:{'a' * 64} and more\n",
    "a hash in capitals": f"2026-01-01T12:00:00Z lab 9 sha256:{'A' * 64}\n",
}


@pytest.mark.parametrize("text", NO_HEADS.values(), ids=NO_HEADS)
def test_what_is_no_head(tmp_path: Path, text: str) -> None:
    """A file with one line that is no head is refused whole: what it should have said cannot be known."""
    path = tmp_path / "heads"
    path.write_text(head_line("lab", FIRST, NOON) + text)
    with pytest.raises(HeadsUnreadableError, match="line 2"):
        read_heads(path)


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file larger than the limit is refused, not read in part."""
    monkeypatch.setattr(heads, "FILE_BYTES_MAX", 150)
    path = tmp_path / "heads"
    append_head(path, head_line("lab", FIRST, NOON))
    assert read_heads(path)
    append_head(path, head_line("lab", SECOND, NOON))
    with pytest.raises(HeadsUnreadableError, match="larger"):
        read_heads(path)


def test_no_link_and_no_pipe(tmp_path: Path) -> None:
    """A symbolic link is not followed and a pipe is not waited for."""
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OSError, match=r"symbolic|regular|device"):
            append_head(tmp_path / name, head_line("lab", FIRST, NOON))
    assert not (tmp_path / "mine").exists()
