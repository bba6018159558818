"""The one door out: resolve, vet, dial that very address.

1. A name is looked up only here, only once for a connection, and only after its permission is on record; an answer
   that is still kept is as good as a new one (`answers.py`), because what follows is done for each connection anew.
2. One answer in the address floor refuses the whole set: whoever answers with such an address answers for the rest.
3. An answer that a deny rule names is left out; when none is left, that rule has denied.
4. What is dialled is an address that was vetted, under the generation that holds at that very moment; it is judged
   once more when it has answered, because nobody could cut the attempt for an address that was not known yet.
5. The user's machine is dialled on its loopback and nowhere else.
6. An address of this machine itself is in the floor, whichever interface has it: what listens on all of them is the
   user's own. Documentation ranges are not, because labs use them.
7. Through a proxy of the host the floor holds for every answer known here; a name that only the proxy can resolve is
   the proxy's to resolve.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final

from sandhold.egress.answers import Address, Answers, Lookup, TooManyAddressesError, plain
from sandhold.egress.host_proxy import HostProxy, ProxyRefusedError, open_tunnel, read_proxy
from sandhold.egress.stream import Stream
from sandhold.model.decision import Decision, Reason
from sandhold.model.destination import Destination, DomainName, HostService, Source
from sandhold.model.event import Why
from sandhold.model.rule import AddressPattern, Effect
from sandhold.policy.decide import decide, decide_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandhold.egress.reactor import Reactor
    from sandhold.policy.index import PolicyIndex

__all__ = [
    "Address",
    "Connect",
    "DeniedLateError",
    "Dialled",
    "Lookup",
    "Upstream",
    "UpstreamFailedError",
    "is_own_address",
    "look_up",
    "prepare",
    "read_proxy",
    "vet",
]

Connect = Callable[[socket.socket, tuple[str, int]], int]

RESOLVE_TIMEOUT_S: Final = 5.0  # resolv.conf(5): the resolver's own first try takes as long
CONNECT_TIMEOUT_S: Final = 10.0  # for all addresses together; three SYNs are sent in 7 s (tcp_syn_retries)
PROXY_TIMEOUT_S: Final = 10.0  # for the answer of the host's proxy, which connects in that time
ADDRESSES_MAX: Final = 8  # tried in turn; more are not worth anybody's wait
KEEPALIVE_IDLE_S: Final = 60  # before the first probe: shorter than the state of any address translator on the way

_SOCKET: Final = int(socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
_DISCARD_PORT: Final = 9  # RFC 863; nothing is sent to it
_LAB_RANGES: Final = tuple(map(ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")))
_LOOPBACK: Final = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


class UpstreamFailedError(Exception):
    """The far end was allowed but cannot be had; `status` is what HTTP is told, `str()` the detail on record."""

    def __init__(self, why: Why, status: int, detail: str, resolved: tuple[Address, ...] = ()) -> None:
        super().__init__(detail)
        self.why = why
        self.status = status
        self.resolved = resolved


class DeniedLateError(Exception):
    """The addresses behind an allowed name, or a newer policy, deny it."""

    def __init__(self, decision: Decision, detail: str) -> None:
        super().__init__(detail)
        self.decision = decision


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connection to the far end, with what goes on record about it."""

    stream: Stream
    resolved: tuple[Address, ...]
    address: tuple[Address, int] | None
    proxy: str | None


def look_up(name: str) -> tuple[Address, ...]:
    """Ask the host's resolver for the addresses of a name; blocks.

    Raises:
        OSError: when there are none (socket.gaierror), or it cannot be asked.
    """
    # As bytes: a str would go through the IDNA codec, and what was judged is what is asked for.
    answers = socket.getaddrinfo(name.encode("ascii"), None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers))


def is_own_address(address: Address) -> bool:
    """Whether an interface of this machine has the address: the kernel then takes it as the source to talk to itself
    (ip(7)). A datagram socket that is connected sends nothing."""
    for network in _LAB_RANGES:
        if address in network:
            return False
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect((str(address), _DISCARD_PORT))
            source = probe.getsockname()[0]
        except OSError:
            return False  # no route leads there, so neither does a connection
    return socket.inet_pton(family, source.partition("%")[0]) == address.packed


def vet(
    index: PolicyIndex, destination: Destination, addresses: Sequence[Address], now: float
) -> tuple[Decision, tuple[Address, ...]]:
    """Judge the answers for an allowed name by rules 2 and 3; the addresses are those that may be dialled."""
    assert addresses, "a name without addresses was not found"
    kept: list[Address] = []
    allowed: Decision | None = None
    denied: Decision | None = None
    for address in addresses:
        decision = decide_address(index, destination, address, now)
        if decision.is_allowed:
            kept.append(address)
            allowed = allowed or decision
        elif decision.reason is Reason.RULE:
            denied = denied or decision
        else:
            return decision, ()
    decided = allowed or denied
    assert decided is not None
    return decided, tuple(kept)


@dataclass(frozen=True, slots=True)
class Upstream:
    """How the outside is reached. `answers`, `connect` and `is_own` are the operating system's own; tests put a small
    internet in their place."""

    reactor: Reactor
    answers: Answers
    proxy: HostProxy | None = None
    connect: Connect = socket.socket.connect_ex
    is_own: Callable[[Address], bool] = is_own_address

    async def dial(
        self,
        destination: Destination,
        index: Callable[[], PolicyIndex],
        now: Callable[[], float],
        still_allowed: Callable[[], Decision],
    ) -> Dialled:
        """Connect to an allowed destination. `index` is the one that holds at each moment; `still_allowed` decides
        everything the connection claims again, right before the connect.

        Raises:
            DeniedLateError: by rules 2 to 4, and 6.
            UpstreamFailedError: when there is no address, or none answers.
        """
        through = self.proxy if self.proxy is not None and self.proxy.serves(destination.host) else None
        addresses = await self._resolve(destination, optional=through is not None)
        vetted = _vet_all(index(), destination, addresses, now())
        if through is not None:
            stream = await self._dial_through(through, destination, still_allowed)
            try:
                _vet_all(index(), destination, addresses, now())
            except DeniedLateError:
                stream.reset()
                raise
            return Dialled(stream, addresses, None, str(through))

        self._refuse_own(index(), destination, vetted, now())

        def may_dial(address: Address) -> Decision:
            decision = still_allowed()
            if decision.is_allowed and not isinstance(destination.host, HostService):
                decision = decide_address(index(), destination, address, now())
            return decision

        try:
            stream, address = await self._connect_any(vetted, destination.port, may_dial)
        except UpstreamFailedError:
            self.answers.forget(str(destination.host))
            raise
        return Dialled(stream, addresses, (address, destination.port), None)

    def _refuse_own(
        self, index: PolicyIndex, destination: Destination, addresses: tuple[Address, ...], now: float
    ) -> None:
        """Refuse by rule 6 what no rule for that very address opens."""
        if isinstance(destination.host, HostService):
            return
        for address in filter(self.is_own, addresses):
            by_address = decide(index, Destination(address, destination.port, Source.ADDRESS), now)
            if by_address.rule is None or not isinstance(by_address.rule.pattern, AddressPattern):
                floor = Decision(Effect.DENY, Reason.ADDRESS_FLOOR, None, index.policy.generation)
                raise DeniedLateError(floor, f"{address} is an address of this machine")

    async def _resolve(self, destination: Destination, *, optional: bool) -> tuple[Address, ...]:
        match destination.host:
            case HostService():
                return _LOOPBACK
            case DomainName(name):
                return await self._look_up(name, optional=optional)
            case address:
                return (address,)

    async def _look_up(self, name: str, *, optional: bool) -> tuple[Address, ...]:
        deadline = self.reactor.clock() + RESOLVE_TIMEOUT_S
        try:
            addresses = await self.answers.addresses_of(name, deadline)
        except TimeoutError:
            if optional:
                return ()
            raise UpstreamFailedError(Why.UPSTREAM_TIMEOUT, 504, "the name was not resolved in time") from None
        except (OSError, UnicodeError) as error:
            if optional:
                return ()
            raise UpstreamFailedError(Why.NAME_NOT_FOUND, 502, _say_lookup(error)) from error
        except TooManyAddressesError as error:  # known here and not judged: not the proxy's to resolve either (rule 7)
            raise UpstreamFailedError(Why.NAME_NOT_FOUND, 502, str(error)) from error
        if not addresses and not optional:
            raise UpstreamFailedError(Why.NAME_NOT_FOUND, 502, "the name has no address")
        return addresses

    async def _connect_any(
        self, addresses: tuple[Address, ...], port: int, may_dial: Callable[[Address], Decision]
    ) -> tuple[Stream, Address]:
        """Try the addresses in turn, each for its share of the time."""
        deadline = self.reactor.clock() + CONNECT_TIMEOUT_S
        tried = addresses[:ADDRESSES_MAX]
        failure: OSError | None = None
        for position, address in enumerate(tried):
            decision = may_dial(address)
            if not decision.is_allowed:
                raise DeniedLateError(decision, "the policy changed meanwhile")
            now = self.reactor.clock()
            share = now + max(0.0, deadline - now) / (len(tried) - position)
            try:
                stream = await self._connect(address, port, share)
            except OSError as error:
                failure = error
                continue
            decision = may_dial(address)
            if not decision.is_allowed:
                stream.reset()
                raise DeniedLateError(decision, "the policy changed meanwhile")
            return stream, address
        assert failure is not None
        raise _failed(failure, addresses) from failure

    async def _connect(self, address: Address, port: int, deadline: float) -> Stream:
        family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
        stream = Stream(self.reactor, socket.socket(family, _SOCKET))
        try:
            code = self.connect(stream.sock, (socket.inet_ntop(family, address.packed), port))
            while code == errno.EINPROGRESS and (code := _progress(stream.sock)) == errno.EINPROGRESS:
                await self.reactor.writable(stream.fileno(), deadline)
            if code:
                raise OSError(code, os.strerror(code))  # noqa: TRY301  the one way out of here
            prepare(stream.sock)
        except BaseException:
            stream.reset()
            raise
        return stream

    async def _dial_through(
        self, proxy: HostProxy, destination: Destination, still_allowed: Callable[[], Decision]
    ) -> Stream:
        """Open a tunnel through the host's proxy, which the user has chosen: its own address is not judged."""
        try:
            addresses: tuple[Address, ...] = (plain(ip_address(proxy.host)),)
        except ValueError:
            addresses = await self._look_up(proxy.host, optional=False)
        stream, _ = await self._connect_any(addresses, proxy.port, lambda _: still_allowed())
        try:
            await open_tunnel(stream, proxy, destination, self.reactor.clock() + PROXY_TIMEOUT_S)
        except TimeoutError as error:
            stream.reset()
            raise UpstreamFailedError(Why.UPSTREAM_TIMEOUT, 504, "the host's proxy does not answer") from error
        except (OSError, ProxyRefusedError) as error:
            stream.reset()
            raise UpstreamFailedError(Why.UPSTREAM_UNREACHABLE, 502, str(error)) from error
        except BaseException:
            stream.reset()
            raise
        return stream


def _vet_all(
    index: PolicyIndex, destination: Destination, addresses: tuple[Address, ...], now: float
) -> tuple[Address, ...]:
    """Return the addresses that may be dialled; all there are for the user's machine, and for a name not known here.

    Raises:
        DeniedLateError: when there are addresses and none may be dialled.
    """
    if not addresses or isinstance(destination.host, HostService):
        return addresses
    decision, vetted = vet(index, destination, addresses, now)
    if not decision.is_allowed:
        shown = ", ".join(str(address) for address in addresses[:ADDRESSES_MAX])
        raise DeniedLateError(decision, f"resolves to {shown}")
    return vetted


def _progress(sock: socket.socket) -> int:
    """How a connection attempt stands, as an error number: 0 when it is connected (connect(2), EINPROGRESS)."""
    try:
        sock.getpeername()
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            return error.errno or errno.EIO
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.EINPROGRESS
    return 0


def prepare(sock: socket.socket) -> None:
    """Send small writes at once, and find out in minutes when the other end is dead (tcp(7))."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_IDLE_S // 4)
    except OSError:
        return  # not TCP, or gone already: the next read or write says so


def _failed(error: OSError, resolved: tuple[Address, ...]) -> UpstreamFailedError:
    if isinstance(error, TimeoutError):
        return UpstreamFailedError(Why.UPSTREAM_TIMEOUT, 504, "no answer to the connection attempt", resolved)
    if error.errno == errno.EADDRNOTAVAIL:
        detail = "every port of this host towards it is in use"
    else:
        detail = (error.strerror or "cannot be connected to").lower()
    status = 503 if error.errno in (errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS) else 502
    return UpstreamFailedError(Why.UPSTREAM_UNREACHABLE, status, detail, resolved)


def _say_lookup(error: OSError | UnicodeError) -> str:
    code = error.errno if isinstance(error, socket.gaierror) else None
    if code == socket.EAI_AGAIN:
        return "the host's resolver does not answer"
    return (
        "the name does not exist" if code in (socket.EAI_NONAME, socket.EAI_NODATA) else "the name cannot be resolved"
    )
