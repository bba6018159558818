"""The limit on how often something may happen."""

from __future__ import annotations

from sandhold.egress.token_bucket import TokenBucket


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def taken(bucket: TokenBucket, attempts: int) -> int:
    """How many of so many attempts get a token."""
    return sum(bucket.take() for _ in range(attempts))


def test_no_more_than_the_burst_at_once() -> None:
    """While no time passes there is the burst and nothing else."""
    bucket = TokenBucket(rate=5.0, burst=3, clock=Clock())

    assert taken(bucket, 1000) == 3


def test_time_brings_tokens_at_the_rate() -> None:
    """Each second brings the rate, in however small steps it passes."""
    clock = Clock()
    bucket = TokenBucket(rate=4.0, burst=3, clock=clock)
    taken(bucket, 3)
    got = 0
    for _ in range(64):
        clock.now += 0.125
        got += taken(bucket, 10)

    assert got == 32


def test_a_long_rest_saves_up_no_more_than_the_burst() -> None:
    """However long nothing happens, the burst is all there is."""
    clock = Clock()
    bucket = TokenBucket(rate=5.0, burst=3, clock=clock)
    clock.now += 86_400.0

    assert taken(bucket, 1000) == 3
