"""The parsers of what people write and of what the parts of a session tell one another."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandhold.agents.parsing import parse_agent
from sandhold.cell.channel import Channel as CellChannel
from sandhold.cell.spec import CellDied, Command
from sandhold.errors import SbxError
from sandhold.model.destination import MalformedError, parse_authority, parse_host
from sandhold.model.rule import Effect, Generation, Policy, Posture, Rule, RuleId
from sandhold.policy.decide import decide
from sandhold.policy.index import PolicyIndex
from sandhold.policy.syntax import RuleSyntaxError, parse_resource, split_resources
from sandhold.session import control
from tests.fuzz.engine import Target
from tests.unit.policy import reference
from tests.unit.policy.samples import destination

if TYPE_CHECKING:
    from contextlib import ExitStack

    from tests.fuzz.engine import Check

_AGENTS: Final = Path(__file__).resolve().parents[2] / "src" / "sandhold" / "agents"
_HOST_WORDS: Final = (
    b".", b":", b"[", b"]", b"::", b"::ffff:", b"127.0.0.1", b"0x7f", b"0177", b"localhost", b"host.docker.internal",
    b"169.254.169.254", b"example.com", b":443", b":0", b":65536", b"%25", b"@", b"xn--", b"\xe3\x80\x82",
    b"2130706433",
)  # fmt: skip
_RULE_WORDS: Final = (*_HOST_WORDS, b"*", b"**", b"**.", b"*.", b"?", b"/8", b"/0", b"/32", b"/128", b":*", b"-", b",")
_TARGETS: Final = tuple(
    destination(text)
    for text in (
        *("example.com:443", "a.example.com:80", "a.b.example.com:22", "other.test:443", "localhost:8080"),
        *("10.1.2.3:22", "169.254.169.254:80", "93.184.216.34:443", "[2001:db8::1]:443", "[::1]:80", "[fd00::1]:443"),
    )
)


def _destination(_: ExitStack) -> Check:
    def check(data: bytes) -> str:
        try:
            host, port = parse_authority(data, 443)
        except MalformedError as error:
            return str(error)
        assert 1 <= port <= 65535
        # The canonical form is a fixed point, whichever way it is read.
        assert parse_host(str(host)) == host
        text = f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
        assert parse_authority(text) == (host, port)
        assert str(host) == str(host).lower()
        return type(host).__name__

    return check


def _syntax(_: ExitStack) -> Check:
    def check(data: bytes) -> str:
        text = data.decode("latin-1")
        effect = Effect.ALLOW if len(data) % 2 else Effect.DENY
        try:
            pattern, ports = parse_resource(text, effect)
        except RuleSyntaxError as error:
            return str(error)
        assert split_resources(text) == (text,), "one resource is not a list of one"
        # What was read is enforced as the reference says, and the other effect is read as the same pattern.
        rule = Rule(RuleId("local:1"), "local:1", effect, pattern, ports, text)
        policy = Policy(Generation(1), Posture.BALANCED, (rule,))
        index = PolicyIndex(policy, "mine")
        target = _TARGETS[len(data) % len(_TARGETS)]
        assert decide(index, target, 0.0) == reference.decide(policy, "mine", target, 0.0)
        if effect is Effect.ALLOW:
            assert parse_resource(text, Effect.DENY)[0] == pattern
        return f"{type(pattern).__name__} {len(ports)}"

    return check


def _agent(_: ExitStack) -> Check:
    def check(data: bytes) -> str:
        try:
            agent = parse_agent("fuzzed", "fuzzed.toml", data)
        except SbxError as error:
            return error.message[14:34]
        assert agent.command
        assert parse_agent("fuzzed", "fuzzed.toml", data) == agent
        return "an agent"

    return check


def _control(stack: ExitStack) -> Check:
    ours, theirs = map(stack.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    channel = control.Channel(ours)

    def check(data: bytes) -> str:
        reader = None
        if len(data) % 8 == 0:  # now and then with a descriptor, which must not stay with us after a refusal
            reader, writer = os.pipe()
            socket.send_fds(theirs, [data[: control.MESSAGE_BYTES_MAX]], [writer])
            os.close(writer)
        else:
            theirs.send(data[: control.MESSAGE_BYTES_MAX])
        try:
            request, descriptors = channel.receive_request()
        except control.ChannelError as error:
            kind = " ".join(str(error).split()[:5])
        else:
            for descriptor in descriptors:
                os.close(descriptor)
            kind = type(request).__name__
        if reader is not None:
            assert os.read(reader, 1) == b"", "a descriptor was kept"
            os.close(reader)
        return kind

    return check


def _cell_channel(stack: ExitStack) -> Check:
    ours, theirs = map(stack.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    command = Command(("true",), (), "/")
    state = {"channel": CellChannel(ours)}

    def check(data: bytes) -> str:
        if len(data) % 16 == 0:
            state["channel"] = channel = CellChannel(ours)
            for streams in ((0, 1, 2), None):
                channel.start(command, streams)
                _, descriptors, _, _ = socket.recv_fds(theirs, 4096, 8)
                for descriptor in descriptors:
                    os.close(descriptor)
        theirs.send(data)
        events = state["channel"].receive()
        if not data:
            return "an empty packet"  # the end of the stream, to a packet socket
        assert len(events) == 1
        event = events[0]
        return event.detail[-30:] if isinstance(event, CellDied) else type(event).__name__

    return check


_REQUESTS: Final = (
    {"type": "start", "argv": ["ls"], "arguments": ["-l"], "environment": [["A", "b"]], "user": "", "folder": None,
     "wants_terminal": True, "rows": 24, "columns": 80},
    {"type": "signal", "signum": 15},
    {"type": "leave", "shown": "aGVsbG8="},
    {"type": "keep"}, {"type": "stop", "actor": "me"}, {"type": "apply"}, {"type": "ask"},
)  # fmt: skip
_NEWS: Final = (
    b'{"started": 1, "pid": 7}', b'{"terminal": 2}', b'{"exited": 1, "status": 0, "detail": null}',
    b'{"exited": 2, "status": 127, "detail": "no such program"}',
)  # fmt: skip
_JSON_WORDS: Final = (
    b'"type"', b'"start"', b"null", b"true", b"1e999", b"-1", b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\u0000",
    b"\\ud800", b'"argv"', b'"signum"', b'"status"', b'"exited"', b'"pid"', b'"detail"', b"NaN", b"[" * 500, b"9" * 30,
)  # fmt: skip

TEXT: Final = (
    Target(
        "destination",
        (
            b"example.com:443",
            b"10.1.2.3",
            b"[2001:db8::1]:22",
            b"LOCALHOST.",
            b"::ffff:1.2.3.4",
            b"a.b-c._d.test:65535",
        ),
        _HOST_WORDS,
        _destination,
    ),
    Target(
        "policy_syntax",
        (
            b"example.com",
            b"*.example.com:22",
            b"**.a.test:8000-8999",
            b"10.0.0.0/8",
            b"[2001:db8::/32]:443",
            b"**",
            b"localhost:*",
            b"api-?.x*.example.com",
        ),
        _RULE_WORDS,
        _syntax,
    ),
    Target(
        "agent",
        tuple(path.read_bytes() for path in sorted(_AGENTS.glob("*.toml"))),
        (
            b"command = ",
            b"[recipe]",
            b"[",
            b"]",
            b'"',
            b"=",
            b"\n",
            b"true",
            b"1",
            b"'''",
            b"environment",
            b"hosts",
            b"files",
        ),
        _agent,
    ),
    Target("control_message", tuple(json.dumps(each).encode() for each in _REQUESTS), _JSON_WORDS, _control),
    Target("cell_message", _NEWS, _JSON_WORDS, _cell_channel),
)
