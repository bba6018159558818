"""The log of a session: bounded while it is written, by whoever writes it."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from sandhold.session import log
from sandhold.session.log import LOG_NAME, SessionLog, open_log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT = 4096
LINE = "x" * 99 + "\n"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a log be a page."""
    monkeypatch.setattr(log, "LOG_BYTES_MAX", LIMIT)


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[tuple[SessionLog, SessionLog]]:
    """Two processes' ends of one log: descriptors of one file."""
    with ExitStack() as stack:
        first = open_log(tmp_path)
        stack.callback(os.close, first)
        second = os.dup(first)
        stack.callback(os.close, second)
        yield SessionLog(tmp_path, first), SessionLog(tmp_path, second)


def kept(folder: Path) -> dict[str, int]:
    """Return the files of a log with their sizes."""
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def test_a_noisy_session_fills_no_disk(tmp_path: Path, writers: tuple[SessionLog, SessionLog]) -> None:
    """However much both write, two files are all there is, neither larger than the limit and a line."""
    for number in range(LIMIT):
        writers[number % 2].write(LINE)
        assert max(kept(tmp_path).values()) <= LIMIT + len(LINE)
    assert set(kept(tmp_path)) == {LOG_NAME, f"{LOG_NAME}.1"}


def test_the_newest_words_are_there(tmp_path: Path, writers: tuple[SessionLog, SessionLog]) -> None:
    """What either says after the other has begun another file stands in that one."""
    for number in range(LIMIT // len(LINE) * 3):
        writers[0].write(LINE)
        writers[1].write(f"word {number}\n")
        assert f"word {number}\n" in (tmp_path / LOG_NAME).read_text()


def test_two_at_once(tmp_path: Path, writers: tuple[SessionLog, SessionLog]) -> None:
    """Both may find the file full at the same moment: the bound holds, and nobody fails."""
    threads = [threading.Thread(target=lambda one=one: [one.write(LINE) for _ in range(LIMIT)]) for one in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(kept(tmp_path)) == {LOG_NAME, f"{LOG_NAME}.1"}
    assert max(kept(tmp_path).values()) <= LIMIT + len(LINE) * len(writers)


def test_a_log_that_is_gone_is_begun_again(tmp_path: Path, writers: tuple[SessionLog, SessionLog]) -> None:
    """Who deletes it has what comes later; a folder that is gone, and what cannot be written, harm nobody."""
    (tmp_path / LOG_NAME).unlink()
    writers[0].write("later\n")
    assert (tmp_path / LOG_NAME).read_text() == "later\n"
    (tmp_path / LOG_NAME).unlink()
    tmp_path.rmdir()
    assert writers[0].write("lost\n") == len("lost\n")
    assert not tmp_path.exists()


def test_a_link_in_its_place_is_not_followed(tmp_path: Path, writers: tuple[SessionLog, SessionLog]) -> None:
    """What somebody put in its place is not written."""
    (tmp_path / LOG_NAME).unlink()
    (tmp_path / "other").touch()
    (tmp_path / LOG_NAME).symlink_to("other")
    writers[0].write("word\n")
    assert (tmp_path / "other").read_text() == ""


def test_python_takes_it_for_its_standard_error(
    tmp_path: Path, writers: tuple[SessionLog, SessionLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash is told in it, with whatever characters."""
    monkeypatch.setattr(sys, "stderr", writers[0])
    traceback.print_exception(ValueError("broken \udcff"))
    print("said", file=sys.stderr, flush=True)  # noqa: T201
    text = (tmp_path / LOG_NAME).read_text()
    assert text == "ValueError: broken \\udcff\nsaid\n"


def test_a_full_one_is_put_aside_at_the_start(tmp_path: Path) -> None:
    """A session begins its log anew where the last one filled it, and goes on in it otherwise."""
    for content, expected in (
        ("x" * LIMIT, {LOG_NAME: LIMIT}),
        ("x" * (LIMIT + 1), {LOG_NAME: 0, f"{LOG_NAME}.1": LIMIT + 1}),
    ):
        (tmp_path / LOG_NAME).write_text(content)
        os.close(open_log(tmp_path))
        assert kept(tmp_path) == expected
