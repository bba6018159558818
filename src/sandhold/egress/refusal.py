"""Says no, in the protocol's own words, so that an agent understands it and stops trying.

Rules:

1. The text is a fixed template. Whatever comes from outside is escaped to printable ASCII and shortened.
2. It names the host, the port, the rule or the reason and the event on record, and what the *user* can do about it.
3. A command is shown only when it has the wanted effect: never where a deny rule or the address floor decided.
4. `x-sbx-decision` is `denied`, or `failed` when the policy allowed it and the far end did not work.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Final

from sandhold.model.decision import Reason
from sandhold.model.destination import HostService
from sandhold.model.rule import Origin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandhold.egress.certificates import Authority
    from sandhold.egress.reactor import Reactor
    from sandhold.egress.stream import Stream
    from sandhold.model.decision import Decision
    from sandhold.model.destination import Destination, Host
    from sandhold.model.event import EventId
    from sandhold.wire.request_head import RequestHead

BODY_BYTES_MAX: Final = 1024  # fits the first flight of any connection, and a model's attention
HOST_SHOWN_MAX: Final = 64  # characters of a host in the sentence; the command has all of it
RULE_SHOWN_MAX: Final = 64  # characters of a rule's id: `local:` and a UUID are 42
DETAIL_SHOWN_MAX: Final = 80  # characters of our own detail
DRAIN_BYTES_MAX: Final = 8 * 1024 * 1024  # of an upload in flight: closing on unread bytes would reset the answer away
DRAIN_S: Final = 5.0  # for the same; the answer itself is out before
_READ_BYTES: Final = 64 * 1024
_UNPRINTABLE = re.compile(r"[^ -_a-~]")  # the gap is the backquote

_NOTHING_HELPS: Final = "Nothing can open this"
_SPEAK_PLAINLY: Final = "Use a plain HTTP or TLS client without unusual headers"
_TRY_LATER: Final = "Wait a little, then try again with fewer connections"

EXPLANATIONS: Final[Mapping[Reason, tuple[str, str | None]]] = {
    # reason: why, and what helps; None where the command that allows it helps (rule 3)
    Reason.RULE: ("a rule denies it", "Only the user can change the rule"),
    Reason.POSTURE_ALLOWS: ("the policy changed while it was judged", None),
    Reason.NO_RULE: ("no rule allows it", None),
    Reason.ADDRESS_FLOOR: (
        "the address is private, loopback or otherwise special",
        "A rule for a name never opens such an address; only a rule of the user's for the address itself does",
    ),
    Reason.METADATA_ADDRESS: ("the address is a cloud metadata service", _NOTHING_HELPS),
    Reason.POLICY_UNREADABLE: (
        "the policy cannot be read, so everything is denied",
        "The user can see why with `sbx policy ls` on the host",
    ),
    Reason.RECORD_UNAVAILABLE: (
        "the decision cannot be recorded, so everything is denied",
        "The user has to make room on the host's disk",
    ),
    Reason.TRAIL_SPENT: (
        "the sandbox has filled its share of the audit trail, so everything is denied until it is started again",
        "The user can look at `sbx policy log` and, if that is fine, stop and start the sandbox",
    ),
    Reason.MALFORMED: ("the request is malformed", _SPEAK_PLAINLY),
    Reason.SNI_MISSING: ("the TLS connection names no server", "Use a TLS client that sends the server name"),
    Reason.NAME_MISMATCH: (
        "the names it claims contradict one another",
        "Use one and the same host name for DNS, TLS and HTTP",
    ),
    Reason.NO_PROTOCOL: ("the tunnel carries no protocol that is allowed on this port", _SPEAK_PLAINLY),
    Reason.UNKNOWN_ADDRESS: ("the address stands for no name", "Look the name up again and use the new address"),
    Reason.OPENING_TIMEOUT: ("nothing readable came in time", _SPEAK_PLAINLY),
    Reason.OPENING_TOO_LARGE: ("its first bytes are too large", _SPEAK_PLAINLY),
    Reason.CONNECTION_LIMIT: ("the sandbox has too many connections open", _TRY_LATER),
    Reason.LOOKUP_LIMIT: ("the sandbox asked for too many names", _TRY_LATER),
    Reason.TIME_LIMIT: ("it took longer than is allowed", "Try smaller pieces"),
    Reason.SESSION_ENDED: ("the sandbox is being stopped", _NOTHING_HELPS),
    Reason.PROXY_SELF: ("it leads back to the proxy itself", _NOTHING_HELPS),
    Reason.INTERNAL_ERROR: ("sbx failed while it judged it", "The user can see why with `sbx logs` on the host"),
}

OPEN_TO_ANOTHER_TRY: Final = frozenset(
    {
        Reason.POSTURE_ALLOWS,
        Reason.RECORD_UNAVAILABLE,
        Reason.MALFORMED,
        Reason.SNI_MISSING,
        Reason.NAME_MISMATCH,
        Reason.UNKNOWN_ADDRESS,
        Reason.OPENING_TIMEOUT,
        Reason.OPENING_TOO_LARGE,
        Reason.CONNECTION_LIMIT,
        Reason.LOOKUP_LIMIT,
        Reason.TIME_LIMIT,
        Reason.INTERNAL_ERROR,
    }
)
"""Where the same destination may still be reached in another way or later; elsewhere the text says to stop trying."""

_FAILURES: Final[Mapping[int, str]] = {
    502: "the far end could not be reached or broke its protocol",
    503: "it cannot be taken on at this moment",
    504: "the far end did not answer in time",
}

_PHRASES: Final[Mapping[int, bytes]] = {
    400: b"Bad Request",
    403: b"Forbidden by sbx policy",  # many tools show nothing but this line
    421: b"Misdirected Request",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What there is to say: the decision, or with an allowing decision the failure that `status` stands for."""

    event: EventId
    destination: Destination | None
    decision: Decision
    sandbox: str
    status: int = 403
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer, not yet in the form of one HTTP version; header names are lower case."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def response_for(refusal: Refusal, method: str, headers: Sequence[tuple[bytes, bytes]]) -> Response:
    """Answer a request with this method and these headers; HEAD gets the same headers and no body."""
    content_type, body = refusal_body(refusal, as_json=wants_json(headers))
    fields = (
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"x-sbx-decision", _verdict(refusal).encode()),
        (b"x-sbx-event", _printable(refusal.event, RULE_SHOWN_MAX).encode()),
        (b"x-sbx-rule", _rule_or_reason(refusal.decision).encode()),
    )
    return Response(refusal.status, fields, b"" if method == "HEAD" else body)


def refusal_body(refusal: Refusal, *, as_json: bool) -> tuple[bytes, bytes]:
    """Write content type and body: one paragraph, or the same facts as a JSON object; `BODY_BYTES_MAX` at most."""
    if not as_json:
        return b"text/plain; charset=us-ascii", _paragraph(refusal).encode("ascii")
    destination = refusal.destination
    facts: dict[str, str | int | None] = {
        "error": _verdict(refusal),
        "message": _why(refusal),
        "host": None if destination is None else _printable(str(destination.host), BODY_BYTES_MAX // 2),
        "port": None if destination is None else destination.port,
        "sandbox": _printable(refusal.sandbox, HOST_SHOWN_MAX),
        "reason": refusal.decision.reason.value,
        "rule": None if refusal.decision.rule is None else _rule_or_reason(refusal.decision),
        "event": _printable(refusal.event, RULE_SHOWN_MAX),
        "user_command": command_for(refusal),
    }
    body = json.dumps(facts).encode("ascii") + b"\n"
    if len(body) > BODY_BYTES_MAX:  # a name near 253 bytes stands in `host` already
        body = json.dumps({**facts, "user_command": None}).encode("ascii") + b"\n"
    return b"application/json", body


def plain_http_refusal(refusal: Refusal, head: RequestHead | None) -> bytes:
    """Write a whole HTTP/1.1 response that ends the connection; without a head it answers as to a GET."""
    response = response_for(refusal, head.method, head.headers) if head else response_for(refusal, "GET", ())
    lines = [b"HTTP/1.1 %d %b" % (response.status, _PHRASES.get(response.status, b"Refused by sbx"))]
    lines += [b"%b: %b" % field for field in response.headers]
    lines += [b"connection: close", b"", response.body]
    return b"\r\n".join(lines)


async def refuse_http(stream: Stream, refusal: Refusal, head: RequestHead | None, deadline: float) -> None:
    """Answer and close; what the client still sends is read and dropped, or the answer would be reset away.

    A client that is slow, silent or gone is closed at the deadline.
    """
    try:
        await stream.end_with(plain_http_refusal(refusal, head), deadline)
        await drain(stream, deadline)
    except (OSError, TimeoutError):
        pass  # it is closed all the same, and the refusal is on record
    finally:
        stream.close()


async def refuse_tls(
    reactor: Reactor, stream: Stream, refusal: Refusal, authority: Authority, server_name: Host, deadline: float
) -> str | None:
    """Finish the handshake in that name, answer what is asked over HTTP/2 or HTTP/1.1, close.

    Returns None when the refusal was delivered, else why it could not be, for the record.
    """
    from sandhold.egress.tls_answers import Answers, answer_over_tls  # noqa: PLC0415  ssl and h2 cost 60 ms at start-up

    try:
        problem = await answer_over_tls(
            reactor,
            stream,
            lambda: authority.context_for(server_name),
            Answers(
                any_version=lambda method, headers: response_for(refusal, method, headers),
                http1=lambda head: plain_http_refusal(refusal, head),
            ),
            deadline,
        )
        if problem is None:
            await drain(stream, min(deadline, reactor.clock() + DRAIN_S))
    except (OSError, TimeoutError):
        return None  # the answer is out; the client had its time to read it
    finally:
        stream.close()
    return problem


async def drain(stream: Stream, deadline: float) -> None:
    """Read and drop until the end, or until more came than a refused upload should hold.

    Raises:
        TimeoutError: at the deadline.
        OSError: when the connection is broken.
    """
    stream.expect_answer()  # to what was just written: most often the end
    dropped = 0
    while dropped < DRAIN_BYTES_MAX:
        data = await stream.read(_READ_BYTES, deadline)
        if not data:
            return
        dropped += len(data)


def wants_json(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether the client accepts or sends JSON (RFC 9110 section 12.5.1; `+json` as in RFC 6839 section 3.1)."""
    for name, value in headers:
        if name.lower() in {b"accept", b"content-type"}:
            for choice in value.lower().split(b","):
                media, *parameters = (part.strip() for part in choice.split(b";"))
                is_json = media == b"application/json" or media.endswith(b"+json")
                if is_json and b"q=0" not in parameters:
                    return True
    return False


def command_for(refusal: Refusal) -> str | None:
    """The command that has the wanted effect when the user types it on the host, None when there is none (rule 3)."""
    decision, destination = refusal.decision, refusal.destination
    if decision.is_allowed:
        return None
    rule = decision.rule
    if rule is not None:
        is_local = rule.origin is Origin.LOCAL
        return f"sbx policy rm network --id {_printable(rule.id, RULE_SHOWN_MAX)}" if is_local else None
    if destination is None or EXPLANATIONS[decision.reason][1] is not None:
        return None
    host = destination.host
    text = "localhost" if isinstance(host, HostService) else f"[{host}]" if isinstance(host, IPv6Address) else str(host)
    sandbox = _printable(refusal.sandbox, HOST_SHOWN_MAX)
    return f"sbx policy allow network {_printable(text, BODY_BYTES_MAX)}:{destination.port} --sandbox {sandbox}"


def _paragraph(refusal: Refusal) -> str:
    destination = refusal.destination
    where = "this connection"
    if destination is not None:
        where = f"`{_printable(str(destination.host), HOST_SHOWN_MAX)}` port {destination.port}"
    sandbox = _printable(refusal.sandbox, HOST_SHOWN_MAX)
    because = _rule_or_reason(refusal.decision)
    event = _printable(refusal.event, RULE_SHOWN_MAX)
    if refusal.decision.is_allowed:
        head = f"sbx: the network policy allows {where} for sandbox `{sandbox}` ({because}), but {_why(refusal)}."
        return f"{head} This is no denial: trying again later may work. Event {event}.\n"
    head = f"sbx: the network policy refuses {where} to sandbox `{sandbox}`: {_why(refusal)} ({because})."
    if refusal.decision.reason not in OPEN_TO_ANOTHER_TRY:
        head += " Trying again, or another tool or proxy, does not change this."
    return f"{head} {_advice(refusal)}. Event {event}.\n"


def _advice(refusal: Refusal) -> str:
    command = command_for(refusal)
    if command is None:
        return EXPLANATIONS[refusal.decision.reason][1] or "Only the user can change the policy"
    when = "with `--now`, or it takes effect when the sandbox is started again"
    return f"Only the user can allow it, on the host and outside the sandbox: `{command}` ({when})"


def _why(refusal: Refusal) -> str:
    if refusal.decision.is_allowed:
        why = _FAILURES.get(refusal.status, "it could not be done")
    else:
        why = EXPLANATIONS[refusal.decision.reason][0]
    return why if refusal.detail is None else f"{why}: {_printable(refusal.detail, DETAIL_SHOWN_MAX)}"


def _verdict(refusal: Refusal) -> str:
    return "failed" if refusal.decision.is_allowed else "denied"


def _rule_or_reason(decision: Decision) -> str:
    return _printable(decision.rule.id if decision.rule is not None else decision.reason.value, RULE_SHOWN_MAX)


def _printable(text: str, length_max: int) -> str:
    """Rule 1: only printable ASCII, nothing that ends our quotes, never longer than the limit."""
    shown = text if len(text) <= length_max else text[: length_max - 3] + "..."
    return _UNPRINTABLE.sub("?", shown)
