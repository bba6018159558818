"""One event as one line of the audit trail, pure.

Rules (product contract, section 5; threats L01 to L06):

1. A record is one JSON object on one line of printable ASCII: every control, C1, bidirectional and other non-ASCII
   character is escaped as `\\uXXXX`, so text from a sandbox can neither end a line nor colour a screen.
2. The fields stand in a fixed order: `v, seq, time, mono, sandbox, session, generation, event, kind`, those of the
   kind, `prev, hash`.
3. `prev` is the `hash` of the record before, 64 zeros for the first. `hash` is the SHA-256, in hexadecimal, of the
   line's bytes up to the comma before `"hash"`; the line goes on with exactly `,"hash":"<hash>"}` and a newline.
4. A text longer than `FIELD_BYTES_MAX` is cut and says so, with its length and the SHA-256 of the whole.
5. A query string is cut off a path; header values are in no event.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from sandhold.model.event import (
    AnchorFailed,
    Closed,
    Connection,
    Dropped,
    Established,
    GenerationSwitched,
    Lookup,
    PolicyChanged,
    Recovered,
    Repeated,
    Request,
    SessionStarted,
    SessionStopped,
    Verified,
    WorkspaceChanged,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address, IPv6Address

    from sandhold.model.decision import Decision
    from sandhold.model.destination import Destination
    from sandhold.model.event import Event

    Body = dict[str, object]

RECORD_VERSION: Final = 1
FIELD_BYTES_MAX: Final = 1024  # of UTF-8: no host, method or rule is longer; a path may be, and is cut
ITEMS_MAX: Final = 1000  # of one list: as many as one policy change may name
ADDRESSES_MAX: Final = 1024  # in use at a time; writing an IPv6 address takes 4 us
SECONDS_MAX: Final = 4  # written once for all records of a second
LINE_BYTES_MAX: Final = 8 << 20  # above ITEMS_MAX fields of FIELD_BYTES_MAX, each byte escaped to six
FIRST_PREVIOUS: Final = "0" * 64

HASH_MARK: Final = b',"hash":"'
LINE_END: Final = b'"}\n'
_CUT_BYTES: Final = FIELD_BYTES_MAX - 128  # leaves room for the mark
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a record says of itself: `time` in seconds since the epoch, `monotonic_ns` of the host's monotonic clock."""

    seq: int
    time: float
    monotonic_ns: int
    sandbox: str
    session: str


def encode_line(envelope: Envelope, event: Event, previous: str) -> tuple[bytes, str]:
    """Write one record; returns the line with its newline, and its hash."""
    kind, generation, body = _body(event)
    fields = {
        "v": RECORD_VERSION,
        "seq": envelope.seq,
        "time": timestamp(envelope.time),
        "mono": envelope.monotonic_ns,
        "sandbox": envelope.sandbox,
        "session": envelope.session,
        "generation": generation,
        "event": _text(event.event),
        "kind": kind,
        **body,
        "prev": previous,
    }
    hashed = _ascii(msgspec.json.encode(fields))[:-1]
    digest = hashlib.sha256(hashed).hexdigest()
    line = b"".join((hashed, HASH_MARK, digest.encode(), LINE_END))
    assert len(line) <= LINE_BYTES_MAX
    return line, digest


def timestamp(seconds: float) -> str:
    """Write a time as RFC 3339 in UTC with microseconds: 27 characters that sort as time does."""
    fraction, whole = math.modf(seconds)
    carried, microseconds = divmod(round(fraction * 1_000_000), 1_000_000)
    return f"{_second(int(whole) + carried)}.{microseconds:06}Z"


@functools.lru_cache(maxsize=SECONDS_MAX)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def _body(event: Event) -> tuple[str, int | None, Body]:  # noqa: C901, PLR0912 - one branch for each kind of event
    match event:
        case Connection():
            return "connection", event.decision.generation, _connection(event)
        case Request():
            return "request", event.decision.generation, _request(event)
        case Established():
            return "established", None, _established(event)
        case Closed():
            return "closed", None, _closed(event)
        case Lookup():
            return "lookup", event.decision.generation, _lookup(event)
        case Dropped(_, protocol, address, port, packets):
            where = None if address is None else str(address)
            return "dropped", None, {"protocol": _text(protocol), "host": where, "port": port, "packets": packets}
        case Repeated():
            return "repeated", event.decision.generation, _repeated(event)
        case PolicyChanged():
            return "policy-changed", event.generation, _policy_changed(event)
        case GenerationSwitched(_, before, after, cut):
            return "generation-switched", after, {"before": before, "after": after, "cut": cut}
        case SessionStarted():
            return "session-started", event.generation, _session_started(event)
        case SessionStopped(_, reason, actor, detail):
            why = {"reason": _text(reason), "detail": _text_or_none(detail)}
            return "session-stopped", None, {**why, "actor": _text_or_none(actor)}
        case Recovered(_, torn_bytes):
            return "recovered", None, {"torn_bytes": torn_bytes}
        case Verified(_, attempts, escaped, skipped):
            return "verified", None, {"attempts": attempts, "escaped": escaped, "skipped": skipped}
        case WorkspaceChanged(_, files, more, unseen):
            changed = [{"what": each.what, "path": _text(each.path), "why": _text(each.why)} for each in files]
            return "workspace-changed", None, {"files": changed, "more": more, "unseen": _text_or_none(unseen)}
        case AnchorFailed(_, target, seq, digest, problem):
            head = {"head_seq": seq, "head_hash": _text(digest)}
            return "anchor-failed", None, {"target": _text(target), **head, "problem": _text(problem)}


def _connection(event: Connection) -> Body:
    return {
        "via": event.via.value,
        **_destination(event.destination, event.claims),
        "original": _endpoint(event.original),
        **_decision(event.decision),
        "detail": _text_or_none(event.detail),
        "user": event.user,
    }


def _request(event: Request) -> Body:
    return {
        "connection": _text(event.connection),
        "via": event.via.value,
        **_destination(event.destination, event.claims),
        "method": _text(event.method),
        "path": _text(event.path.partition("?")[0]),
        **_decision(event.decision),
        "detail": _text_or_none(event.detail),
        "user": event.user,
    }


def _established(event: Established) -> Body:
    return {
        "status": event.status,
        "resolved": _items([_address(each) for each in event.resolved]),
        "dialled": _endpoint(event.dialled),
        "proxy": _text_or_none(event.proxy),
    }


def _closed(event: Closed) -> Body:
    return {
        "status": event.status,
        "bytes_up": event.bytes_up,
        "bytes_down": event.bytes_down,
        "duration_s": event.duration_s,
        "why": event.why.value,
        "detail": _text_or_none(event.detail),
    }


def _lookup(event: Lookup) -> Body:
    return {
        "host": _text(event.name),
        "query_type": _text(event.query_type),
        **_decision(event.decision),
        "asked_outside": event.asked_outside,
        "detail": _text_or_none(event.detail),
    }


def _repeated(event: Repeated) -> Body:
    return {
        "of": _text(event.of),
        "host": _text_or_none(event.host),
        "port": event.port,
        **_decision(event.decision),
        "count": event.count,
        "first": timestamp(event.first),
        "last": timestamp(event.last),
        "is_mixed": event.is_mixed,
    }


def _policy_changed(event: PolicyChanged) -> Body:
    return {
        "action": _text(event.action),
        "actor": _text(event.actor),
        "resources": _items(event.resources),
        "rules": _items(event.rules),
        "scope": _text_or_none(event.sandbox),
        "expires_at": None if event.expires_at is None else timestamp(event.expires_at),
    }


def _session_started(event: SessionStarted) -> Body:
    return {
        "actor": _text(event.actor),
        "agent": _text(event.agent),
        "isolation": _text(event.isolation),
        "template": _text(event.template),
        "version": _text(event.version),
    }


def _destination(destination: Destination | None, claims: Sequence[Destination]) -> Body:
    return {
        "host": None if destination is None else str(destination.host),
        "port": None if destination is None else destination.port,
        "source": None if destination is None else destination.source.value,
        "claims": [
            {"source": claim.source.value, "host": str(claim.host), "port": claim.port} for claim in claims[:ITEMS_MAX]
        ],
    }


def _decision(decision: Decision) -> Body:
    rule = decision.rule
    return {
        "decision": decision.effect.value,
        "reason": decision.reason.value,
        "rule": None if rule is None else _text(rule.id),
        "rule_name": None if rule is None else _text(rule.name),
        "rule_resource": None if rule is None else _text(rule.resource),
    }


def _endpoint(endpoint: tuple[IPv4Address | IPv6Address, int] | None) -> Body | None:
    return None if endpoint is None else {"address": _address(endpoint[0]), "port": endpoint[1]}


@functools.lru_cache(maxsize=ADDRESSES_MAX)
def _address(address: IPv4Address | IPv6Address) -> str:
    return str(address)


def _items(texts: Sequence[str]) -> list[str]:
    kept = [_text(each) for each in texts[:ITEMS_MAX]]
    return kept if len(texts) <= ITEMS_MAX else [*kept, f"[and {len(texts) - ITEMS_MAX} more]"]


def _text_or_none(text: str | None) -> str | None:
    return None if text is None else _text(text)


def _text(text: str) -> str:
    """Bound a text by rule 4; a lone surrogate, which no JSON may hold, becomes its escape in letters."""
    if len(text) <= FIELD_BYTES_MAX and text.isascii():
        return text
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) <= FIELD_BYTES_MAX:
        return encoded.decode()
    mark = f"[cut: {len(encoded)} bytes, sha256 {hashlib.sha256(encoded).hexdigest()}]"
    return encoded[:_CUT_BYTES].decode("utf-8", "ignore") + mark


def _ascii(encoded: bytes) -> bytes:
    """Escape what is not printable ASCII; in JSON that can only stand inside a string (RFC 8259 section 7)."""
    if encoded.isascii() and b"\x7f" not in encoded:
        return encoded
    return _UNPRINTABLE.sub(_escape, encoded.decode()).encode("ascii")


def _escape(found: re.Match[str]) -> str:
    units = found.group().encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
