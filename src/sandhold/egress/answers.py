"""The addresses of names, as the host's resolver answers: kept for a moment, so that a burst of connections asks once.

1. An answer is kept for `KEPT_S`, a failure not at all. Keeping saves the question and no judgement: who is given an
   answer vets every address of it anew (`upstream.py`).
2. Who needs a name that is being asked for waits for that answer.
3. A question that nobody waits for any more is given up.
4. An answer that led to no connection is forgotten: the next one asks again.
5. An answer with more than `ADDRESSES_MAX` addresses is refused as a whole: each would be judged, and held.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from sandhold.egress.tasks import Pending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandhold.egress.reactor import Reactor
    from sandhold.egress.tasks import Task

Address = IPv4Address | IPv6Address
Lookup = Callable[[str], "Sequence[Address]"]

KEPT_S: Final = 2.0  # a page or an installer opens its connections in that time; a host that moves is asked anew
KEPT_MAX: Final = 256  # names; the oldest goes first
ADDRESSES_MAX: Final = 256  # of one name: as many as 4096 bytes hold, where common ones have ten; TCP would take 4000


class TooManyAddressesError(Exception):
    """A name has more addresses than are judged."""


class Answers:
    """What the resolver said lately, for one sandbox."""

    def __init__(self, reactor: Reactor, lookup: Lookup) -> None:
        self._reactor = reactor
        self._lookup = lookup
        self._kept: dict[str, _Answer] = {}
        self._questions: dict[str, _Question] = {}

    async def addresses_of(self, name: str, deadline: float) -> tuple[Address, ...]:
        """Return the addresses of a name, each once and in their order; what is IPv4 inside IPv6 is IPv4.

        Raises:
            TimeoutError: at the deadline, or that of who asked first.
            TooManyAddressesError: by rule 5.
            Exception: what the look-up raises.
        """
        kept = self._kept.get(name)
        if kept is not None and self._reactor.clock() < kept.until:
            return kept.addresses
        waiter: Pending[tuple[Address, ...]] = Pending(self._reactor)
        question = self._join(name, waiter, deadline)
        try:
            return await waiter.wait(deadline)
        finally:
            question.waiters.discard(waiter)
            if not question.waiters and self._questions.get(name) is question:
                self._give_up(name, question)

    def forget(self, name: str) -> None:
        """Keep the answer to this name no longer."""
        self._kept.pop(name, None)

    def _join(self, name: str, waiter: Pending[tuple[Address, ...]], deadline: float) -> _Question:
        """Wait with the others for the answer to a question; put it when nobody has."""
        question = self._questions.get(name)
        if question is not None:
            question.waiters.add(waiter)
            return question
        question = self._questions[name] = _Question({waiter})
        question.task = self._reactor.spawn(self._put(name, question, deadline), "look-up")
        return question

    def _give_up(self, name: str, question: _Question) -> None:
        del self._questions[name]
        if question.task is not None:
            question.task.cancel()

    async def _put(self, name: str, question: _Question, deadline: float) -> None:
        """Put the question to the resolver, and tell everybody who waits for its answer."""
        try:
            found = await self._reactor.in_thread(self._lookup, name, deadline=deadline)
            addresses = tuple(dict.fromkeys(map(plain, found)))
            if len(addresses) > ADDRESSES_MAX:
                raise TooManyAddressesError(f"the name has more than {ADDRESSES_MAX} addresses")  # noqa: TRY301
        except Exception as error:  # noqa: BLE001  raised where somebody waits for it
            self._questions.pop(name, None)
            for waiter in question.waiters:
                waiter.fail(error)
        else:
            self._questions.pop(name, None)
            self._keep(name, addresses)
            for waiter in question.waiters:
                waiter.resolve(addresses)

    def _keep(self, name: str, addresses: tuple[Address, ...]) -> None:
        self._kept.pop(name, None)
        if not addresses:
            return
        while len(self._kept) >= KEPT_MAX:
            del self._kept[next(iter(self._kept))]
        self._kept[name] = _Answer(addresses, self._reactor.clock() + KEPT_S)


@dataclass(frozen=True, slots=True)
class _Answer:
    """Addresses, and until when they are given out."""

    addresses: tuple[Address, ...]
    until: float


@dataclass(slots=True, eq=False)
class _Question:
    """A name that is being asked for, and who waits for its addresses."""

    waiters: set[Pending[tuple[Address, ...]]]
    task: Task | None = None


def plain(address: Address) -> Address:
    """Unwrap an IPv4 address in IPv6 (RFC 4291 section 2.5.5.2), so that what is judged is what the kernel dials."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped if mapped is not None else address
