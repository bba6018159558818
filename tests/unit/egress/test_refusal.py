"""What a sandbox reads when it is told no."""

from __future__ import annotations

import json
import string
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import pytest

from sandhold.egress.refusal import (
    BODY_BYTES_MAX,
    EXPLANATIONS,
    OPEN_TO_ANOTHER_TRY,
    Refusal,
    command_for,
    plain_http_refusal,
    refusal_body,
    wants_json,
)
from sandhold.model.decision import Decision, Reason
from sandhold.model.destination import Destination, DomainName, HostService, Source
from sandhold.model.event import EventId
from sandhold.model.rule import EVERY_PORT, Effect, Generation, NamePattern, Origin, Rule, RuleId
from sandhold.wire.need_more import NEED_MORE
from sandhold.wire.request_head import read_request_head
from sandhold.wire.response_head import read_response_head

if TYPE_CHECKING:
    from sandhold.model.destination import Host
    from sandhold.wire.request_head import RequestHead

EVENT = EventId("01JD0000000000000000000000")
LOCAL_ID = "local:9701dc6e-6b9c-4f8e-9f0a-0a52f1b1a001"
LONGEST_NAME = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 57, "com"])


def rule(effect: Effect, *, origin: Origin = Origin.LOCAL, identity: str = LOCAL_ID) -> Rule:
    """A rule for example.com."""
    return Rule(RuleId(identity), identity, effect, NamePattern(("example", "com")), EVERY_PORT, "x", None, origin)


def refusal(
    reason: Reason = Reason.NO_RULE,
    *,
    host: Host | None = DomainName("example.com"),  # noqa: B008  a frozen value
    port: int = 443,
    by: Rule | None = None,
    status: int = 403,
    detail: str | None = None,
) -> Refusal:
    """A refusal for example.com in `sbxlab` that differs in what a case is about."""
    effect = by.effect if by is not None else Effect.DENY
    destination = None if host is None else Destination(host, port, Source.SNI)
    return Refusal(EVENT, destination, Decision(effect, reason, by, Generation(3)), "sbxlab", status, detail)


def request(*lines: bytes) -> RequestHead:
    """A request head that our own reader accepts."""
    event = read_request_head(b"\r\n".join([*lines, b"Host: example.com", b"", b""]))
    assert event is not NEED_MORE
    return event[0]


def test_every_reason_is_explained() -> None:
    """A new reason cannot be added without a sentence for it."""
    assert set(EXPLANATIONS) == set(Reason)


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("host", [DomainName("example.com"), None], ids=["named", "nothing could be named"])
def test_every_paragraph_is_complete(reason: Reason, host: DomainName | None) -> None:
    """Whatever the reason, the text has the reason, the event and the sandbox, ends in one line and is short."""
    content_type, body = refusal_body(refusal(reason, host=host), as_json=False)
    text = body.decode("ascii")

    assert len(body) <= BODY_BYTES_MAX
    assert text.count("\n") == 1
    assert text.endswith(f"Event {EVENT}.\n")
    assert reason.value in text
    assert "`sbxlab`" in text
    assert content_type == b"text/plain; charset=us-ascii"


def test_an_agent_is_told_to_stop_only_where_stopping_is_right() -> None:
    """No text both says that trying again is useless and advises to try again."""
    for reason in Reason:
        text = refusal_body(refusal(reason), as_json=False)[1].decode()
        assert ("Trying again" in text) == (reason not in OPEN_TO_ANOTHER_TRY)
        assert not ("Trying again" in text and "try again" in text)


def test_the_text_of_a_refusal_by_no_rule() -> None:
    """The paragraph names host, port, reason, event and the command that the user can run."""
    _, body = refusal_body(refusal(), as_json=False)

    assert body.decode() == (
        "sbx: the network policy refuses `example.com` port 443 to sandbox `sbxlab`: no rule allows it"
        " (no-matching-rule). Trying again, or another tool or proxy, does not change this. Only the user can allow it,"
        " on the host and outside the sandbox: `sbx policy allow network example.com:443 --sandbox sbxlab` (with"
        " `--now`, or it takes effect when the sandbox is started again). Event 01JD0000000000000000000000.\n"
    )


ALLOW_PREFIX = "sbx policy allow network "
COMMANDS: dict[str, tuple[Refusal, str | None]] = {
    "a name that no rule allows": (refusal(), f"{ALLOW_PREFIX}example.com:443 --sandbox sbxlab"),
    "an IPv4 address": (
        refusal(host=IPv4Address("203.0.113.9"), port=22),
        f"{ALLOW_PREFIX}203.0.113.9:22 --sandbox sbxlab",
    ),
    "an IPv6 address stands in brackets": (
        refusal(host=IPv6Address("2001:db8::1"), port=22),
        f"{ALLOW_PREFIX}[2001:db8::1]:22 --sandbox sbxlab",
    ),
    "the user's machine is written as in a rule": (
        refusal(host=HostService(), port=11434),
        f"{ALLOW_PREFIX}localhost:11434 --sandbox sbxlab",
    ),
    "an allow rule does not help against a deny rule of the user's": (
        refusal(Reason.RULE, by=rule(Effect.DENY)),
        f"sbx policy rm network --id {LOCAL_ID}",
    ),
    "nor against one that cannot be removed": (
        refusal(Reason.RULE, by=rule(Effect.DENY, origin=Origin.PRESET, identity="default-os-packages")),
        None,
    ),
    "a name rule does not open the floor": (refusal(Reason.ADDRESS_FLOOR), None),
    "nothing opens a metadata address": (refusal(Reason.METADATA_ADDRESS), None),
    "nothing was named": (refusal(host=None), None),
    "the policy allowed it and the far end failed": (refusal(Reason.RULE, by=rule(Effect.ALLOW), status=502), None),
}


@pytest.mark.parametrize(("given", "command"), COMMANDS.values(), ids=COMMANDS)
def test_a_command_is_shown_only_when_it_helps(given: Refusal, command: str | None) -> None:
    """The command is the one with the wanted effect, in text and JSON alike, or there is none."""
    text = refusal_body(given, as_json=False)[1].decode()
    facts = json.loads(refusal_body(given, as_json=True)[1])

    assert (ALLOW_PREFIX in text) == (command is not None and command.startswith(ALLOW_PREFIX))
    assert command is None or f"`{command}`" in text
    assert command_for(given) == command
    assert facts["user_command"] == command


HOSTILE: dict[str, Refusal] = {
    "line breaks and colours in the detail": refusal(detail="a\r\nx-sbx-decision: allowed\x1b[31m\x9b`\u202e\u00e9"),
    "a rule's name from a file": refusal(
        Reason.RULE, by=rule(Effect.DENY, origin=Origin.AGENT, identity="r\r\nset-cookie: a=b\x00" + "x" * 5000)
    ),
    "a detail without end": refusal(detail="x" * 100_000),
    "the longest name there is": refusal(host=DomainName(LONGEST_NAME), port=65535),
    "the longest name and detail": refusal(host=DomainName(LONGEST_NAME), port=65535, detail="\\" * 500),
    "the longest name in a failure": refusal(
        Reason.RULE, by=rule(Effect.ALLOW), host=DomainName(LONGEST_NAME), status=504, detail='"' * 500
    ),
}


@pytest.mark.parametrize("given", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_nothing_from_outside_leaves_its_place(given: Refusal, as_json: bool) -> None:  # noqa: FBT001
    """Text from outside adds no line, no header, no control character and no length beyond the limit."""
    accept = b"Accept: application/json" if as_json else b"Accept: */*"
    whole = plain_http_refusal(given, request(b"GET / HTTP/1.1", accept))
    head, _, body = whole.partition(b"\r\n\r\n")

    allowed = set(string.printable.encode()) - set(b"\t\x0b\x0c\r\n")
    assert set(body.removesuffix(b"\n")) <= allowed
    assert set(head.replace(b"\r\n", b"")) <= allowed
    assert {line.partition(b":")[0] for line in head.split(b"\r\n")[1:]} == {
        b"content-type",
        b"content-length",
        b"cache-control",
        b"x-sbx-decision",
        b"x-sbx-event",
        b"x-sbx-rule",
        b"connection",
    }
    assert len(body) <= BODY_BYTES_MAX
    assert not as_json or json.loads(body)["event"] == EVENT


def test_the_longest_name_is_shown_whole_in_the_command() -> None:
    """A long name is shortened in the sentence and never in the command, which would otherwise open another host."""
    _, body = refusal_body(refusal(host=DomainName(LONGEST_NAME)), as_json=False)

    assert f"{ALLOW_PREFIX}{LONGEST_NAME}:443 --sandbox".encode() in body


DECISIONS: dict[str, tuple[Refusal, int, bytes, bytes]] = {
    "no rule": (refusal(), 403, b"denied", b"no-matching-rule"),
    "a rule denies": (refusal(Reason.RULE, by=rule(Effect.DENY)), 403, b"denied", LOCAL_ID.encode()),
    "malformed": (refusal(Reason.MALFORMED, host=None, status=400), 400, b"denied", b"malformed"),
    "misdirected": (refusal(Reason.NAME_MISMATCH, status=421), 421, b"denied", b"name-mismatch"),
    "unreachable": (refusal(Reason.RULE, by=rule(Effect.ALLOW), status=502), 502, b"failed", LOCAL_ID.encode()),
    "no room": (refusal(Reason.CONNECTION_LIMIT, status=503), 503, b"denied", b"connection-limit"),
    "too slow": (refusal(Reason.RULE, by=rule(Effect.ALLOW), status=504), 504, b"failed", LOCAL_ID.encode()),
}


@pytest.mark.parametrize(("given", "status", "decision", "because"), DECISIONS.values(), ids=DECISIONS)
def test_the_response_is_one_that_we_would_read_ourselves(
    given: Refusal, status: int, decision: bytes, because: bytes
) -> None:
    """Status and headers say it for programs, the length is exact and the connection ends."""
    head = request(b"GET / HTTP/1.1")
    whole = plain_http_refusal(given, head)
    event = read_response_head(whole, "GET")
    assert event is not NEED_MORE
    response, consumed = event
    fields = dict(response.headers)

    assert response.status == status
    assert fields[b"x-sbx-decision"] == decision
    assert fields[b"x-sbx-rule"] == because
    assert fields[b"x-sbx-event"] == EVENT.encode()
    assert fields[b"cache-control"] == b"no-store"
    assert fields[b"connection"] == b"close"
    assert int(fields[b"content-length"]) == len(whole) - consumed


def test_head_gets_no_body() -> None:
    """The answer to HEAD has the length that GET would get, and ends with its headers (RFC 9110 section 9.3.2)."""
    to_head = plain_http_refusal(refusal(), request(b"HEAD / HTTP/1.1"))
    to_get = plain_http_refusal(refusal(), request(b"GET / HTTP/1.1"))

    assert to_head.endswith(b"\r\n\r\n")
    assert to_head == to_get.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


ACCEPTS: dict[str, tuple[tuple[tuple[bytes, bytes], ...], bool]] = {
    "a browser": (((b"Accept", b"text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"),), False),
    "curl": (((b"Accept", b"*/*"),), False),
    "nothing said": ((), False),
    "JSON": (((b"accept", b"application/json"),), True),
    "JSON among others, in another case": (((b"ACCEPT", b"text/html;q=0.1, Application/JSON ; q=0.5"),), True),
    "a media type built on JSON": (((b"Accept", b"application/vnd.github.v3+json"),), True),
    "JSON sent": (((b"Content-Type", b"application/json; charset=utf-8"),), True),
    "JSON unwanted": (((b"Accept", b"application/json;q=0, text/plain"),), False),
    "another type that starts alike": (((b"Accept", b"application/json-seq"),), False),
    "another header": (((b"X-Accept", b"application/json"),), False),
}


@pytest.mark.parametrize(("headers", "expected"), ACCEPTS.values(), ids=ACCEPTS)
def test_json_goes_to_those_who_take_it(headers: tuple[tuple[bytes, bytes], ...], expected: bool) -> None:  # noqa: FBT001
    """JSON is answered when the client accepts or sends it, text otherwise."""
    assert wants_json(headers) is expected


def test_json_has_the_same_facts() -> None:
    """Every fact of the paragraph is a field."""
    facts = json.loads(refusal_body(refusal(Reason.MALFORMED, detail="two Host fields"), as_json=True)[1])

    assert facts == {
        "error": "denied",
        "message": "the request is malformed: two Host fields",
        "host": "example.com",
        "port": 443,
        "sandbox": "sbxlab",
        "reason": "malformed",
        "rule": None,
        "event": EVENT,
        "user_command": None,
    }
