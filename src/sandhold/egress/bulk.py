"""The part of the event loop for what has much to do, and gives way to everything else (`reactor.py`, rule 6)."""

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
        """Whether it has so much to do that everything else goes before it; always the same while it is entered."""

    def ready(self, events: int) -> None:
        """Do what can be done at once; `events` are `READABLE` and `WRITABLE`, both when it is broken."""


class Bulk:
    """The descriptors with much to do, in turn."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._served: dict[int, Served] = {}
        self._left: deque[tuple[int, int]] = deque()
        self.is_due = False  # set by the reactor when `fileno()` is readable

    def fileno(self) -> int:
        """The descriptor that is readable when one of them is ready."""
        return self._epoll.fileno()

    @property
    def has_more(self) -> bool:
        """Whether some were ready and have not been served yet."""
        return bool(self._left)

    def serve(self, fd: int, served: Served, before: int, events: int) -> None:
        """Have `served` called for these events of a descriptor, and no more for those `before`; 0 is none."""
        if not events:
            self.forget(fd)
            return
        self._served[fd] = served
        if before:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)

    def forget(self, fd: int) -> None:
        """Drop a descriptor, before it is closed."""
        if self._served.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def serve_some(self, clock: Callable[[], float]) -> None:
        """Serve for `BULK_SLICE_S`. An event may be an older descriptor's of the same number: then it is spurious."""
        if not self._left:
            if not self.is_due:
                return
            self.is_due = False
            self._left.extend(self._epoll.poll(0, EVENTS_MAX))
        until = clock() + BULK_SLICE_S
        while self._left:
            fd, events = self._left.popleft()
            served = self._served.get(fd)
            if served is not None:
                served.ready(READABLE | WRITABLE if events & _BROKEN else events)
                if clock() >= until:
                    return

    def close(self) -> None:
        """Close it; the descriptors themselves are others'."""
        self._epoll.close()
