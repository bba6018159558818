"""What every question of a sandbox is answered: names become synthetic addresses, almost nothing is asked outside.

Rules:

1. A and AAAA: every name that can exist has a synthetic address, allowed or denied alike; nothing is asked outside. The
   decision is made again when a connection comes, by the same function.
2. The user's machine has a synthetic address too, under its aliases; `localhost` is the sandbox's own (RFC 6761 section
   6.3), and `gateway.sbx.internal` is the address of this resolver and the proxy.
3. A name that cannot exist does not (NXDOMAIN); the root has nothing (REFUSED).
4. PTR is answered for addresses of the cell's own, which is nothing to record; the reverse zones are never asked
   outside for any type.
5. Types in `OUTSIDE_TYPES` are asked outside, for a name that policy allows on any port: a question has none. The
   decision is durable on record first.
6. Every other type is empty, also HTTPS and SVCB, which could move a client to other names, ports and keys; types that
   ask for more than one set of records are REFUSED.
7. A name is recorded once for each type and effect; a decision after `--now` is recorded anew. A message that is no
   question is recorded once for each thing that can be wrong with it.
8. Over the limits the answer is REFUSED, with its own reason on record, once a second at most.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from sandhold.egress.gateway import RecordUnavailableError
from sandhold.egress.questions import ask_outside
from sandhold.egress.synthetic_names import NamesFullError
from sandhold.egress.token_bucket import TokenBucket
from sandhold.model.cell_addresses import GATEWAY_IPV4, GATEWAY_IPV6, GATEWAY_NAME
from sandhold.model.decision import Decision, Reason
from sandhold.model.destination import DomainName, HostService
from sandhold.model.event import Lookup
from sandhold.model.rule import Effect
from sandhold.policy.decide import decide_any_port
from sandhold.wire.dns_message import build_answer, build_empty, build_error, build_pointer, read_query
from sandhold.wire.dns_question import ErrorCode, MalformedQuery, Query, Transport

if TYPE_CHECKING:
    from sandhold.egress.gateway import Gateway

QUERY_BYTES_MAX: Final = 4096  # one name, one type and options; nothing we answer is longer
TTL_S: Final = 60
LOOKUPS_RATE: Final = 200.0  # a second, far more than an installer makes; each new name is a record on disk
LOOKUPS_BURST: Final = 2000  # a dependency tree resolved at once
QUESTIONS_MAX: Final = 16  # asked outside at the same time
RECORDED_MAX: Final = 65_536  # (name, type, effect) remembered as recorded; after that the oldest is recorded again

PTR: Final = 12
OUTSIDE_TYPES: Final = frozenset({2, 5, 6, 15, 16, 33, 35, 44, 52, 257})
"""NS, CNAME, SOA, MX, TXT, SRV, NAPTR, SSHFP, TLSA, CAA (the IANA registry of DNS parameters)."""
REFUSED_TYPES: Final = frozenset({249, 250, 251, 252, 253, 254, 255})
"""TKEY, TSIG, IXFR, AXFR, MAILB, MAILA, ANY: no single set of records."""

_OWN_HOST: Final = DomainName(GATEWAY_NAME)
_LOOPBACK: Final = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_REVERSE_IPV4: Final = ".in-addr.arpa"
_REVERSE_IPV6: Final = ".ip6.arpa"


class Lookups:
    """The questions of one sandbox, whichever socket they come on."""

    __slots__ = ("_asking", "_bucket", "_gateway", "_limit_bucket", "_recorded")

    def __init__(self, gateway: Gateway) -> None:
        clock = gateway.reactor.clock
        self._gateway = gateway
        self._asking = 0
        self._bucket = TokenBucket(LOOKUPS_RATE, LOOKUPS_BURST, clock)
        self._limit_bucket = TokenBucket(1.0, 1, clock)
        self._recorded: OrderedDict[tuple[str, int, Effect], None] = OrderedDict()

    def read(self, data: bytes, transport: Transport) -> Query | bytes | None:
        """Read one message: a question, else the reply to what is none, None for silence."""
        is_too_large = len(data) > QUERY_BYTES_MAX
        query = MalformedQuery("larger than any question", None) if is_too_large else read_query(data, transport)
        if isinstance(query, MalformedQuery):
            if not self._bucket.take():
                return None
            self._note_malformed(query.detail)
            return query.reply
        if not self._bucket.take():
            return self._refuse_over_limit(query, "too many lookups at once")
        return query

    def answer_inside(self, query: Query) -> bytes | None:
        """Answer by every rule that asks nothing outside; None when rule 5 has to: see `answer_outside`."""
        host = query.host
        if host is None:
            self._note(query, self._denied(Reason.MALFORMED))
            return build_error(query, ErrorCode.NXDOMAIN if query.text.strip(".") else ErrorCode.REFUSED)
        if query.query_type in REFUSED_TYPES:
            self._note(query, self._decide(host))
            return build_error(query, ErrorCode.REFUSED)
        if query.wants_ipv4 or query.wants_ipv6:
            return self._answer_address(query, host)
        decision = self._decide(host)
        if decision.is_allowed and query.query_type in OUTSIDE_TYPES and not _stays_inside(query.text, host):
            return None
        pointed = self._pointed_name(host) if query.query_type == PTR else None
        if pointed is not None:
            return build_pointer(query, pointed, TTL_S)
        self._note(query, decision)
        return build_error(query, ErrorCode.NXDOMAIN) if query.query_type == PTR else build_empty(query)

    def _answer_address(self, query: Query, host: DomainName | HostService) -> bytes:
        """Rules 1 and 2."""
        if _is_local(query.text):
            return build_answer(query, _LOOPBACK, TTL_S)
        if host == _OWN_HOST:
            return build_answer(query, (GATEWAY_IPV4, GATEWAY_IPV6), TTL_S)
        try:
            addresses = self._gateway.names.addresses_of(host)
        except NamesFullError:
            return self._refuse_over_limit(query, "too many names in one session")
        self._note(query, self._decide(host))
        return build_answer(query, addresses, TTL_S)

    def _pointed_name(self, host: DomainName | HostService) -> str | None:
        """Rule 4: the name behind a reverse name of the cell's own, None for any other."""
        address = _reversed_address(host)
        if address in (GATEWAY_IPV4, GATEWAY_IPV6):
            return GATEWAY_NAME
        name = None if address is None else self._gateway.names.name_of(address)
        return None if name is None else str(name)

    async def answer_outside(self, query: Query) -> bytes:
        """Answer by rule 5: on record first, then asked."""
        assert query.host is not None, "only a name that can exist is asked outside"
        if self._asking >= QUESTIONS_MAX:
            return self._refuse_over_limit(query, "too many questions at the same time")
        self._asking += 1
        try:
            decision = self._decide(query.host)  # again: the policy may have changed since this was queued
            if not decision.is_allowed:
                self._note(query, decision)
                return build_empty(query)
            await self._record(query, decision)
            answer = await ask_outside(self._gateway.reactor, self._gateway.resolvers(), query)
        except RecordUnavailableError:
            self._note(query, self._denied(Reason.RECORD_UNAVAILABLE))
            answer = None
        finally:
            self._asking -= 1
        return build_error(query, ErrorCode.SERVFAIL) if answer is None else answer

    def _decide(self, host: DomainName | HostService) -> Decision:
        if self._gateway.is_trail_spent():
            return self._denied(Reason.TRAIL_SPENT)
        return decide_any_port(self._gateway.index, host, self._gateway.now())

    async def _record(self, query: Query, decision: Decision) -> None:
        key = _key(query, decision)
        if key in self._recorded:
            self._recorded.move_to_end(key)
            return
        await self._gateway.record(self._lookup(query, decision, asked_outside=True))
        self._remember(key)

    def _note(self, query: Query, decision: Decision) -> None:
        key = _key(query, decision)
        if key in self._recorded:
            self._recorded.move_to_end(key)
            return
        self._remember(key)
        # The bounded queue, for allowed names too: a flood of names on a full disk must not eat the memory.
        self._gateway.note_denial(self._lookup(query, decision, asked_outside=False))

    def _note_malformed(self, detail: str) -> None:
        """Rule 7 for a message without a name: once for each thing that can be wrong with one."""
        key = (detail, 0, Effect.DENY)
        if key not in self._recorded:
            self._remember(key)
            denied = self._denied(Reason.MALFORMED)
            self._gateway.note_denial(
                Lookup(self._gateway.new_event(), "-", "-", denied, asked_outside=False, detail=detail)
            )

    def _remember(self, key: tuple[str, int, Effect]) -> None:
        self._recorded[key] = None
        if len(self._recorded) > RECORDED_MAX:
            self._recorded.popitem(last=False)

    def _lookup(self, query: Query, decision: Decision, *, asked_outside: bool, detail: str | None = None) -> Lookup:
        name = query.text if query.host is None else str(query.host)
        return Lookup(self._gateway.new_event(), name, query.type_text, decision, asked_outside, detail)

    def _refuse_over_limit(self, query: Query, detail: str) -> bytes:
        """Rule 8."""
        if self._limit_bucket.take():
            decision = self._denied(Reason.LOOKUP_LIMIT)
            self._gateway.note_denial(self._lookup(query, decision, asked_outside=False, detail=detail))
        return build_error(query, ErrorCode.REFUSED)

    def _denied(self, reason: Reason) -> Decision:
        return Decision(Effect.DENY, reason, None, self._gateway.index.policy.generation)


def _key(query: Query, decision: Decision) -> tuple[str, int, Effect]:
    name = query.text.lower() if query.host is None else str(query.host)
    return name, query.query_type, decision.effect


def _is_local(text: str) -> bool:
    name = text.lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost")


def _stays_inside(text: str, host: DomainName | HostService) -> bool:
    """Whether the name means something in the cell alone, so that no resolver outside is told of it."""
    is_ours = isinstance(host, HostService) or host == _OWN_HOST or _is_local(text)
    return is_ours or f".{host}".endswith((_REVERSE_IPV4, _REVERSE_IPV6))


def _reversed_address(host: DomainName | HostService) -> IPv4Address | IPv6Address | None:
    """The address a reverse name stands for (RFC 1035 section 3.5, RFC 3596 section 2.5), None for any other name."""
    text = str(host)
    try:
        if text.endswith(_REVERSE_IPV4):
            return IPv4Address(".".join(reversed(text.removesuffix(_REVERSE_IPV4).split("."))))
        nibbles = text.removesuffix(_REVERSE_IPV6).split(".")
        if text.endswith(_REVERSE_IPV6) and len(nibbles) == 32 and all(len(nibble) == 1 for nibble in nibbles):
            return IPv6Address(int("".join(reversed(nibbles)), 16))
    except ValueError:
        return None
    return None
