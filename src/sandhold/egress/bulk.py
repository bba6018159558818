"""The part of the event loop for what needs no task: readiness calls a function (`reactor.py`, rule 6)."""

from __future__ import annotations

import select
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

BULK_SLICE_S: Final = 0.0005  # one burst of a megabyte takes as long, and is not broken off
EVENTS_MAX: Final = 256
READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
_BROKEN: Final = select.EPOLLHUP | select.EPOLLERR


class Served(Protocol):
    """What is called when a descriptor is ready."""

    @property
    def is_heavy(self) -> bool:
        """Whether it has so much to do that everything else goes before it; asked when it is entered."""

    def ready(self, events: int) -> None:
        """Do what can be done at once; `events` are `READABLE` and `WRITABLE`, both when it is broken."""


class Bulk:
    """The descriptors that are served without a task, each kind in turn: in every call the light ones, then the heavy.

    The heavy ones have an epoll of their own inside the other, so that a new connection's first bytes do not wait until
    every download has had its megabyte.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._heavy = select.epoll()
        self._epoll.register(self._heavy, READABLE)
        self._served: dict[int, Served] = {}
        self._heavy_ones: set[int] = set()
        self._left: deque[tuple[int, int]] = deque()
        self._heavy_left: deque[tuple[int, int]] = deque()
        self.is_due = False  # set by the reactor when `fileno()` is readable

    def fileno(self) -> int:
        """The descriptor that is readable when one of them is ready."""
        return self._epoll.fileno()

    @property
    def has_more(self) -> bool:
        """Whether some were ready and have not been served yet."""
        return bool(self._left or self._heavy_left)

    def serve(self, fd: int, served: Served, before: int, events: int) -> None:
        """Have `served` called for these events of a descriptor, and no more for those `before`; 0 is none."""
        if not events:
            self.forget(fd)
        elif before:
            self._epoll_of(fd).modify(fd, events)
        else:
            self._served[fd] = served
            if served.is_heavy:
                self._heavy_ones.add(fd)
            self._epoll_of(fd).register(fd, events)

    def forget(self, fd: int) -> None:
        """Drop a descriptor, before it is closed."""
        if self._served.pop(fd, None) is not None:
            self._epoll_of(fd).unregister(fd)
            self._heavy_ones.discard(fd)

    def serve_some(self, clock: Callable[[], float]) -> None:
        """Serve each kind for `BULK_SLICE_S`. An event may be an older descriptor's of the same number: then it is
        spurious."""
        if not self._left and self.is_due:
            self.is_due = False
            self._left.extend(self._epoll.poll(0, EVENTS_MAX))
        self._serve_slice(self._left, clock)
        self._serve_slice(self._heavy_left, clock)

    def _serve_slice(self, left: deque[tuple[int, int]], clock: Callable[[], float]) -> None:
        until = clock() + BULK_SLICE_S if left else 0.0
        while left:
            fd, events = left.popleft()
            served = self._served.get(fd)
            if served is not None:
                served.ready(READABLE | WRITABLE if events & _BROKEN else events)
                if clock() >= until:
                    return
            elif fd == self._heavy.fileno() and not self._heavy_left:
                self._heavy_left.extend(self._heavy.poll(0, EVENTS_MAX))

    def _epoll_of(self, fd: int) -> select.epoll:
        return self._heavy if fd in self._heavy_ones else self._epoll

    def close(self) -> None:
        """Close it; the descriptors themselves are others'."""
        self._heavy.close()
        self._epoll.close()
