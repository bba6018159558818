"""Answers of the resolver: asked for once by those that come together, kept for a moment, and no longer."""

from __future__ import annotations

import socket
import threading
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from sandhold.egress import answers
from sandhold.egress.answers import Answers
from sandhold.egress.reactor import Reactor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sandhold.egress.answers import Address

LONG_S = 20.0


class Resolver:
    """Answers with addresses that count up, once `is_free` is set; `asked` are the names it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_free = threading.Event()
        self.is_free.set()

    def lookup(self, name: str) -> Sequence[Address]:
        """As `upstream.look_up`."""
        self.asked.append(name)
        assert self.is_free.wait(LONG_S)
        if name == "gone.test":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        if name == "empty.test":
            return []
        return [ip_address(f"203.0.113.{len(self.asked)}")]


def run(resolver: Resolver, main: Callable[[Reactor, Answers], Awaitable[None]]) -> None:
    """Run with the answers of that resolver."""
    reactor = Reactor()

    async def body() -> None:
        await main(reactor, Answers(reactor, resolver.lookup))

    reactor.run(body())


def test_an_answer_is_kept_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes within `KEPT_S` gets the answer that is there; whoever comes later has the name asked for anew."""
    monkeypatch.setattr(answers, "KEPT_S", LONG_S)
    resolver = Resolver()
    found: list[str] = []

    async def main(reactor: Reactor, kept: Answers) -> None:
        async def ask() -> None:
            found.extend(map(str, await kept.addresses_of("good.test", reactor.clock() + LONG_S)))

        await ask()
        await ask()
        assert resolver.asked == ["good.test"]
        kept.forget("good.test")
        monkeypatch.setattr(answers, "KEPT_S", 0.0)
        await ask()
        await ask()

    run(resolver, main)
    assert resolver.asked == ["good.test"] * 3
    assert found == ["203.0.113.1", "203.0.113.1", "203.0.113.2", "203.0.113.3"]


def test_those_who_come_together_ask_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a name is asked for, everybody who needs it waits for that one answer, also where none is kept."""
    monkeypatch.setattr(answers, "KEPT_S", 0.0)
    resolver = Resolver()
    resolver.is_free.clear()
    found: list[str] = []

    async def main(reactor: Reactor, kept: Answers) -> None:
        async def ask() -> None:
            found.extend(map(str, await kept.addresses_of("good.test", reactor.clock() + LONG_S)))

        tasks = [reactor.spawn(ask(), "ask") for _ in range(100)]
        resolver.is_free.set()
        for task in tasks:
            await task.join(reactor.clock() + LONG_S)

    run(resolver, main)
    assert resolver.asked == ["good.test"]
    assert found == ["203.0.113.1"] * 100


@pytest.mark.parametrize("name", ["gone.test", "empty.test"])
def test_what_is_no_answer_is_not_kept(name: str) -> None:
    """A failure, and an answer without an address, are for those who waited for it."""
    resolver = Resolver()
    failures: list[str] = []

    async def main(reactor: Reactor, kept: Answers) -> None:
        for _ in range(2):
            try:
                assert await kept.addresses_of(name, reactor.clock() + LONG_S) == ()
            except OSError as error:
                failures.append(str(error))

    run(resolver, main)
    assert resolver.asked == [name] * 2
    assert len(failures) == (2 if name == "gone.test" else 0)


def test_who_stops_waiting_leaves_the_others_their_answer() -> None:
    """The end of one who waits, also of the first, is no end of the question while somebody else waits."""
    resolver = Resolver()
    resolver.is_free.clear()
    found: list[str] = []

    async def main(reactor: Reactor, kept: Answers) -> None:
        async def ask() -> None:
            found.extend(map(str, await kept.addresses_of("good.test", reactor.clock() + LONG_S)))

        first, second = reactor.spawn(ask(), "first"), reactor.spawn(ask(), "second")
        first.cancel()
        await first.join(reactor.clock() + LONG_S)
        resolver.is_free.set()
        await second.join(reactor.clock() + LONG_S)

    run(resolver, main)
    assert found == ["203.0.113.1"]
    assert resolver.asked == ["good.test"]


def test_a_question_that_nobody_waits_for_is_given_up() -> None:
    """When the last one stops waiting the name is forgotten, and asked for anew by whoever comes then."""
    resolver = Resolver()
    resolver.is_free.clear()
    found: list[str] = []

    async def main(reactor: Reactor, kept: Answers) -> None:
        with pytest.raises(TimeoutError):
            await kept.addresses_of("good.test", reactor.clock() + 0.01)
        resolver.is_free.set()
        found.extend(map(str, await kept.addresses_of("good.test", reactor.clock() + LONG_S)))

    run(resolver, main)
    assert resolver.asked == ["good.test"] * 2
    assert found == ["203.0.113.2"]


def test_the_oldest_answer_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many names are kept as there is room for; what is asked for again then is the oldest."""
    monkeypatch.setattr(answers, "KEPT_MAX", 2)
    monkeypatch.setattr(answers, "KEPT_S", LONG_S)
    resolver = Resolver()

    async def main(reactor: Reactor, kept: Answers) -> None:
        for name in ("a.test", "b.test", "c.test", "b.test", "c.test", "a.test"):
            await kept.addresses_of(name, reactor.clock() + LONG_S)

    run(resolver, main)
    assert resolver.asked == ["a.test", "b.test", "c.test", "a.test"]


def test_a_name_with_too_many_addresses_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many addresses as are judged are an answer; of a name with one more there is none, and nothing is kept."""
    monkeypatch.setattr(answers, "KEPT_S", LONG_S)
    asked: list[str] = []

    def lookup(name: str) -> Sequence[Address]:
        asked.append(name)
        count = answers.ADDRESSES_MAX + (name == "endless.test")
        return [ip_address(f"2001:db8::{number:x}") for number in range(count)]

    async def main(reactor: Reactor, kept: Answers) -> None:
        for _ in range(2):
            with pytest.raises(answers.TooManyAddressesError, match="more than 256"):
                await kept.addresses_of("endless.test", reactor.clock() + LONG_S)
        assert len(await kept.addresses_of("large.test", reactor.clock() + LONG_S)) == answers.ADDRESSES_MAX

    reactor = Reactor()
    reactor.run(main(reactor, Answers(reactor, lookup)))
    assert asked == ["endless.test", "endless.test", "large.test"]
