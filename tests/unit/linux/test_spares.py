"""Copies that become helpers: what they get, what they do not, and that they end."""

from __future__ import annotations

import os
import select
import socket
import sys
import types
from typing import TYPE_CHECKING

import pytest

from sandhold.linux.spares import Spares

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

END_S_MAX = 20.0
MODULE = "sandhold_test_helper"


@pytest.fixture
def becomes() -> Iterator[Callable[[Callable[[Sequence[int]], None]], None]]:
    """Let `MODULE` be a module whose `main` is the function given."""

    def define(main: Callable[[Sequence[int]], None]) -> None:
        module = types.ModuleType(MODULE)
        module.main = main  # type: ignore[attr-defined]  # what a helper's module has
        sys.modules[MODULE] = module

    yield define
    sys.modules.pop(MODULE, None)


def _open_descriptors(fds: Sequence[int]) -> None:
    with socket.socket(fileno=fds[0]) as link:
        held = sorted(int(number) for number in os.listdir("/proc/self/fd"))  # noqa: PTH208  the helper's own
        link.send(repr([number for number in held if number > 2 and number != link.fileno()]).encode())


def test_a_copy_keeps_no_descriptor_of_its_maker(becomes: Callable[[object], None]) -> None:
    """A helper has 0, 1, 2 and what it was sent; nothing that its maker had open."""
    becomes(_open_descriptors)
    secret, _unused = os.pipe()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with Spares() as spares, ours:
            spares.make([MODULE])
            with theirs:
                child = spares.spawn(MODULE, [theirs.fileno()])
            ours.settimeout(END_S_MAX)
            held = ours.recv(4096).decode()
            assert child.wait(END_S_MAX) == 0
    finally:
        os.close(secret)
        os.close(_unused)
    assert len(held.strip("[]").split(",")) == 1, held  # the folder that is being listed


def test_what_goes_wrong_in_a_copy_ends_it(becomes: Callable[[object], None]) -> None:
    """An exception never runs on into the maker's code: the copy ends with status 1."""

    def fail(_: Sequence[int]) -> None:
        raise SystemExit(0)

    becomes(fail)
    with Spares() as spares:
        spares.make([MODULE])
        assert spares.spawn(MODULE, []).wait(END_S_MAX) == 1


def test_a_copy_that_is_not_taken_ends(becomes: Callable[[object], None]) -> None:
    """Closing ends the copies that wait, and they are waited for."""
    becomes(_open_descriptors)
    spares = Spares()
    spares.make([MODULE])
    child, _ = spares._waiting[MODULE]  # noqa: SLF001  there is no other way to name one that nobody took
    pidfd = os.pidfd_open(child.pid)
    try:
        spares.close()
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(0)
        with pytest.raises(ChildProcessError):
            os.waitpid(child.pid, 0)
    finally:
        os.close(pidfd)


def test_a_copy_can_be_waited_for_and_killed(becomes: Callable[[object], None]) -> None:
    """Waiting has an end, killing ends it, and both may be done again."""
    becomes(lambda _: select.select([], [], []))
    with Spares() as spares:
        spares.make([MODULE])
        child = spares.spawn(MODULE, [])
        with pytest.raises(TimeoutError):
            child.wait(0.05)
        child.kill()
        assert child.wait(END_S_MAX) == -9
        child.kill()
        assert child.wait(0.0) == -9
