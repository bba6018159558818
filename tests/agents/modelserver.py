"""A model that follows a script, on the host's loopback, in the four languages that agents speak to models.

It is stateless: a request carries the whole conversation, and what the tools printed so far decides the next step.
It only streams, as all agents ask it to.

- OpenAI Responses, https://platform.openai.com/docs/api-reference/responses-streaming
- OpenAI Chat Completions, https://platform.openai.com/docs/api-reference/chat-streaming
- Anthropic Messages, https://docs.anthropic.com/en/api/messages-streaming
- Gemini `streamGenerateContent`, https://ai.google.dev/api/generate-content
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

MODEL: Final = "scripted-1"
TOOL_WAIT_S: Final = 120  # longer than any command of a script
TOOL_WAIT_MS: Final = 30_000  # the longest that Codex waits for a command before it reports that it still runs

_READ_TIMEOUT_S: Final = 60.0  # far beyond the pause between the pieces of one request
_BODY_BYTES_MAX: Final = 16 * 1024 * 1024  # a whole conversation with every tool's description is below 1 MiB
_STILL_RUNS: Final = re.compile(r"Process running with session ID (\d+)")
_SHELL_TOOLS: Final = ("exec_command", "Bash", "bash", "run_shell_command")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """Ask the agent to run a command in its shell."""

    command: str


@dataclass(frozen=True, slots=True)
class Say:
    """Answer with a text, which ends the agent's turn."""

    text: str


Script = Callable[[tuple[str, ...]], Run | Say]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says: what the shell printed, a text a command, and the tools on offer with their arguments."""

    results: tuple[str, ...]
    tools: Mapping[str, frozenset[str]]
    running: int | None = None

    @property
    def shell(self) -> str | None:
        """The tool that runs commands; none in requests beside the conversation, for a title and the like."""
        return next((name for name in _SHELL_TOOLS if name in self.tools), None)


@dataclass(frozen=True, slots=True)
class Call:
    """A tool called with arguments; `identifier` is never the same."""

    identifier: str
    tool: str
    arguments: Json


@dataclass(slots=True)
class Heard:
    """What the server was asked, for a test to look at: methods and paths, and what tools printed at the latest."""

    requests: list[str] = field(default_factory=list)
    results: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dialect:
    """One API: how a request is read, and how a step is written as the data of server-sent events."""

    read: Callable[[Json], Asked]
    call: Callable[[Call], list[Json]]
    say: Callable[[list[str]], list[Json]]


@dataclass(frozen=True, slots=True)
class ModelServer:
    """A server that runs; `heard` grows while it does."""

    port: int
    heard: Heard

    @property
    def url(self) -> str:
        """Where a sandbox reaches it."""
        return f"http://host.docker.internal:{self.port}"


@contextlib.contextmanager
def serve(script: Script) -> Iterator[ModelServer]:
    """Serve a script on a free port of the loopback for the length of a `with`."""
    heard = Heard()

    class Connection(_Connection):
        pass

    Connection.script, Connection.heard = staticmethod(script), heard
    with ThreadingHTTPServer(("127.0.0.1", 0), Connection) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield ModelServer(server.server_address[1], heard)
        finally:
            server.shutdown()
            thread.join()


def next_step(script: Script, asked: Asked) -> Call | Say:
    """Say what comes next in a conversation: the script's command as a call of the agent's own shell tool, or words."""
    if asked.shell is None:
        return Say("ok")
    identifier = f"call_{secrets.token_hex(8)}"
    if asked.running is not None:
        waiting = {"session_id": asked.running, "chars": "", "yield_time_ms": TOOL_WAIT_MS}
        return Call(identifier, "write_stdin", waiting)
    step = script(asked.results)
    if isinstance(step, Say):
        return step
    offered = {
        "cmd": step.command,
        "command": step.command,
        "description": "as the script says",
        "yield_time_ms": TOOL_WAIT_MS,
        "initial_wait": TOOL_WAIT_S,
    }
    known = asked.tools[asked.shell]
    return Call(identifier, asked.shell, {name: value for name, value in offered.items() if name in known})


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _READ_TIMEOUT_S
    script: Script
    heard: Heard

    def do_GET(self) -> None:
        self._note()
        self._refuse("there is nothing to get")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        path = self._note()
        dialect = next((dialect for ending, dialect in _DIALECTS.items() if path.endswith(ending)), None)
        length = int(self.headers.get("content-length") or 0)
        if dialect is None or not 0 < length <= _BODY_BYTES_MAX:
            self._refuse("no such API, or a body of no length or too much")
            return
        asked = dialect.read(json.loads(self.rfile.read(length)))
        self.heard.results = max(self.heard.results, asked.results, key=len)
        step = next_step(self.script, asked)
        self._stream(dialect.call(step) if isinstance(step, Call) else dialect.say(_pieces(step.text)))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Stay silent: what was asked is in `heard`."""

    def _note(self) -> str:
        path = self.path.partition("?")[0]  # the rest is on no record
        self.heard.requests.append(f"{self.command} {path}")
        return path

    def _refuse(self, why: str) -> None:
        body = json.dumps({"error": {"message": why}}).encode()
        self.send_response(404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self, events: list[Json]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for event in events:
            name = f"event: {event['type']}\n" if "type" in event else ""
            data = json.dumps(event) if event else "[DONE]"  # the end of a chat completion is no JSON
            self.wfile.write(f"{name}data: {data}\n\n".encode())
            self.wfile.flush()


def _pieces(text: str) -> list[str]:
    """Cut a text as models send it, a few characters at a time."""
    return [text[start : start + 16] for start in range(0, len(text), 16)]


def _text(content: object) -> str:
    """Return the text of a tool's result, which every API also lets be a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content)


def _arguments(schema: Json) -> frozenset[str]:
    return frozenset(schema.get("properties", {}))


# OpenAI Responses: the conversation is a list of items; every event repeats its type.


def _read_responses(request: Json) -> Asked:
    items = [item for item in request.get("input", []) if isinstance(item, dict)]
    called = {item["call_id"]: item["name"] for item in items if item.get("type") == "function_call"}
    results: list[str] = []
    running: int | None = None
    for item in items:
        if item.get("type") != "function_call_output":
            continue
        text = _text(item["output"])
        if called.get(item["call_id"]) == "write_stdin":  # the rest of what the command before printed
            results[-1] += text
        else:
            results.append(text)
        found = _STILL_RUNS.search(text)
        running = int(found[1]) if found else None
    tools = {
        tool["name"]: _arguments(tool.get("parameters", {})) for tool in request.get("tools", []) if "name" in tool
    }
    return Asked(tuple(results), tools, running)


def _responses_call(call: Call) -> list[Json]:
    item = {
        "type": "function_call",
        "id": f"fc_{call.identifier}",
        "status": "completed",
        "call_id": call.identifier,
        "name": call.tool,
        "arguments": json.dumps(call.arguments),
    }
    return _responses_events([{"type": "response.output_item.done", "output_index": 0, "item": item}])


def _responses_say(pieces: list[str]) -> list[Json]:
    message: Json = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
    whole = {**message, "content": [{"type": "output_text", "text": "".join(pieces)}]}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    return _responses_events(
        [
            {"type": "response.output_item.added", "output_index": 0, "item": message},
            *({"type": "response.output_text.delta", **place, "delta": piece} for piece in pieces),
            {"type": "response.output_item.done", "output_index": 0, "item": whole},
        ]
    )


def _responses_events(events: list[Json]) -> list[Json]:
    usage = {"input_tokens": 1, "input_tokens_details": None, "output_tokens": 1, "output_tokens_details": None}
    response = {"id": "resp_1", "usage": {**usage, "total_tokens": 2}}
    return [
        {"type": "response.created", "response": {"id": "resp_1"}},
        *events,
        {"type": "response.completed", "response": response},
    ]


# OpenAI Chat Completions: unnamed events with deltas, then `[DONE]`.


def _read_chat(request: Json) -> Asked:
    results = tuple(_text(message["content"]) for message in request["messages"] if message.get("role") == "tool")
    functions = [tool["function"] for tool in request.get("tools") or [] if "function" in tool]
    return Asked(results, {each["name"]: _arguments(each.get("parameters", {})) for each in functions})


def _chat_call(call: Call) -> list[Json]:
    function = {"name": call.tool, "arguments": json.dumps(call.arguments)}
    calls = [{"index": 0, "id": call.identifier, "type": "function", "function": function}]
    return [
        _chat_chunk({"role": "assistant", "content": None}),
        _chat_chunk({"tool_calls": calls}),
        _chat_chunk({}, "tool_calls"),
        {},
    ]


def _chat_say(pieces: list[str]) -> list[Json]:
    deltas = [_chat_chunk({"content": piece}) for piece in pieces]
    return [_chat_chunk({"role": "assistant", "content": ""}), *deltas, _chat_chunk({}, "stop"), {}]


def _chat_chunk(delta: Json, reason: str | None = None) -> Json:
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": MODEL}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2} if reason else None
    return {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], "usage": usage}


# Anthropic Messages: results of tools are blocks of the user's messages; a block starts, grows and stops.

_MESSAGES_USAGE: Final = {"input_tokens": 1, "output_tokens": 1}


def _read_messages(request: Json) -> Asked:
    blocks = [block for said in request["messages"] if isinstance(said["content"], list) for block in said["content"]]
    results = tuple(_text(block.get("content", "")) for block in blocks if block.get("type") == "tool_result")
    tools = {tool["name"]: _arguments(tool.get("input_schema", {})) for tool in request.get("tools") or []}
    return Asked(results, tools)


def _messages_call(call: Call) -> list[Json]:
    block = {"type": "tool_use", "id": f"toolu_{call.identifier}", "name": call.tool, "input": {}}
    delta = {"type": "input_json_delta", "partial_json": json.dumps(call.arguments)}
    return _messages_events(block, [delta], "tool_use")


def _messages_say(pieces: list[str]) -> list[Json]:
    deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
    return _messages_events({"type": "text", "text": ""}, deltas, "end_turn")


def _messages_events(block: Json, deltas: list[Json], reason: str) -> list[Json]:
    message = {**_message([]), "stop_reason": None}
    end = {"stop_reason": reason, "stop_sequence": None}
    return [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": end, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    ]


def _message(content: list[Json]) -> Json:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": content}
    return {**message, "stop_reason": "end_turn", "stop_sequence": None, "usage": _MESSAGES_USAGE}


# Gemini: the conversation is contents with parts; each event is a whole answer with the next parts.


def _read_gemini(request: Json) -> Asked:
    parts = [part for content in request.get("contents", []) for part in content.get("parts", [])]
    responses = [part["functionResponse"]["response"] for part in parts if "functionResponse" in part]
    results = tuple("\n".join(map(str, response.values())) for response in responses)
    declared = [each for tool in request.get("tools") or [] for each in tool.get("functionDeclarations", [])]
    schemas = {each["name"]: each.get("parametersJsonSchema") or each.get("parameters") or {} for each in declared}
    return Asked(results, {name: _arguments(schema) for name, schema in schemas.items()})


def _gemini_call(call: Call) -> list[Json]:
    return [_gemini_answer({"functionCall": {"name": call.tool, "args": call.arguments}}, "STOP")]


def _gemini_say(pieces: list[str]) -> list[Json]:
    last = len(pieces) - 1
    return [_gemini_answer({"text": piece}, "STOP" if at == last else None) for at, piece in enumerate(pieces)]


def _gemini_answer(part: Json, reason: str | None) -> Json:
    candidate: Json = {"content": {"role": "model", "parts": [part]}, "index": 0}
    if reason is not None:
        candidate["finishReason"] = reason
    usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": MODEL, "responseId": "response-1"}


_DIALECTS: Final = {
    "/responses": Dialect(_read_responses, _responses_call, _responses_say),
    "/chat/completions": Dialect(_read_chat, _chat_call, _chat_say),
    "/messages": Dialect(_read_messages, _messages_call, _messages_say),
    ":streamGenerateContent": Dialect(_read_gemini, _gemini_call, _gemini_say),
}
