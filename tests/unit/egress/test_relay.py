"""The few pipes of the process."""

from __future__ import annotations

import os

from sandhold.egress.pipes import PipePool


def test_no_more_pipes_than_allowed() -> None:
    """Past the limit there is none to borrow; one that was given back is lent again."""
    pool = PipePool(limit=1)
    pipe = pool.borrow()
    assert pipe is not None
    assert pool.borrow() is None
    pool.give_back(pipe, is_empty=True)
    assert pool.borrow() is pipe
    pool.give_back(pipe, is_empty=True)
    pool.close()


def test_a_pipe_with_bytes_in_it_is_never_lent_again() -> None:
    """What is left of one connection cannot come out in another."""
    pool = PipePool(limit=1)
    pipe = pool.borrow()
    assert pipe is not None
    os.write(pipe.sink, b"of another connection")
    pool.give_back(pipe, is_empty=False)
    other = pool.borrow()
    assert other is not None
    assert other is not pipe
    pool.give_back(other, is_empty=True)
    pool.close()
