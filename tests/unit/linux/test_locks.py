"""The lock between processes, with an end to the wait."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from sandhold.linux.locks import locked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def test_one_at_a_time(tmp_path: Path) -> None:
    """While one holds the lock another waits its limit out and fails; afterwards it gets it."""
    with opened(tmp_path / "f") as first, opened(tmp_path / "f") as second:
        with locked(first), pytest.raises(TimeoutError, match="another process"), locked(second, 0.01):
            pass
        with locked(second, 0.0):
            pass


def test_lock_is_let_go_when_the_work_fails(tmp_path: Path) -> None:
    """An error inside does not leave the lock held."""
    with opened(tmp_path / "f") as first, opened(tmp_path / "f") as second:
        with pytest.raises(OSError, match="disk"), locked(first):
            raise OSError("disk")
        with locked(second, 0.0):
            pass


def test_lock_ends_with_its_file(tmp_path: Path) -> None:
    """Closing the file, as the kernel does for a killed process, lets go."""
    with opened(tmp_path / "f") as second:
        with opened(tmp_path / "f") as first:
            lock = locked(first)
            lock.__enter__()
        with locked(second, 0.0):
            pass
        with pytest.raises(OSError, match="Bad file"):
            lock.__exit__(None, None, None)
