"""Rows of the trail in the forms that other programs read: OCSF events and cells of a spreadsheet, pure.

Rules:

1. A row is one event of the Open Cybersecurity Schema Framework, version 1.6: HTTP Activity (class 4002) where a
   request was read, DNS Activity (4003) for lookups, Network Activity (4001) for everything else, all with the
   attributes that the schema requires. What the schema has no place for is under `unmapped`.
2. A cell that a spreadsheet would take for a formula (`=`, `+`, `-`, `@`, tab, carriage return in front) begins with an
   apostrophe, which shows it as text (OWASP, CSV injection). Quoting is that of RFC 4180.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from sandhold.model.event import Why
from sandhold.model.rule import Effect
from sandhold.store.summary import UNNAMED, RowKind
from sandhold.version import VERSION

if TYPE_CHECKING:
    from sandhold.store.summary import Row

OCSF_VERSION: Final = "1.6.0"
COLUMNS: Final = (
    "time", "sandbox", "event", "kind", "decision", "host", "port", "protocol", "method", "path", "status", "bytes_up",
    "bytes_down", "duration_s", "because", "why", "generation", "via", "detail", "attempts", "user",
)  # fmt: skip

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_CATEGORY: Final = 4
_NETWORK, _HTTP, _DNS = 4001, 4002, 4003
_CLASSES: Final = {_NETWORK: "Network Activity", _HTTP: "HTTP Activity", _DNS: "DNS Activity"}
_OTHER: Final = 99
_OPEN, _CLOSE, _RESET, _FAIL, _REFUSE = 1, 2, 3, 4, 5
_QUERY: Final = 1
_METHODS: Final = {
    "CONNECT": 1, "DELETE": 2, "GET": 3, "HEAD": 4, "OPTIONS": 5, "POST": 6, "PUT": 7, "TRACE": 8, "PATCH": 9,
}  # fmt: skip
_FAILED: Final = frozenset({Why.UPSTREAM_UNREACHABLE, Why.UPSTREAM_TIMEOUT, Why.NAME_NOT_FOUND})
_BROKEN_OFF: Final = frozenset({Why.UPSTREAM_GONE, Why.DOWNSTREAM_GONE, Why.CLOSED_BY_POLICY, Why.SESSION_ENDED})
_PROTOCOL_NUMBERS: Final = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58}
_OUTBOUND: Final = 2


def csv_cells(row: Row) -> tuple[str, ...]:
    """Write a row as the cells of `COLUMNS`, safe by rule 2; what a row has not is an empty cell."""
    return tuple(_cell(value) for value in _values(row))


def ocsf_event(row: Row) -> dict[str, object]:
    """Write a row as an OCSF event, by rule 1."""
    kind = _HTTP if row.method is not None else _DNS if row.is_lookup and row.host != UNNAMED else _NETWORK
    activity = _activity(kind, row)
    is_allowed = row.effect is Effect.ALLOW
    event: dict[str, object] = {
        "category_uid": _CATEGORY,
        "category_name": "Network Activity",
        "class_uid": kind,
        "class_name": _CLASSES[kind],
        "activity_id": activity,
        "type_uid": kind * 100 + activity,
        "severity_id": 1 if is_allowed else 2,
        "time": milliseconds(row.time),
        "metadata": metadata(row.event, row.sandbox, row.time) | {"profiles": ["security_control", "host"]},
        "action_id": 1 if is_allowed else 2,
        "disposition_id": 1 if is_allowed else 2,
        "status_id": 1 if is_allowed and row.why not in _FAILED else 2,
        "src_endpoint": {"name": row.sandbox},
        "connection_info": _connection(row),
        "firewall_rule": {"name": row.because},
        "unmapped": _without_none({"why": row.why, "generation": row.generation, "via": row.via}),
    }
    if row.host != UNNAMED:
        event["dst_endpoint"] = _without_none({_naming(row): row.host, "port": row.port})
    if row.duration_s is not None:
        event["duration"] = int(row.duration_s * 1000)
    if row.bytes_up is not None and row.bytes_down is not None:
        total = row.bytes_up + row.bytes_down
        event["traffic"] = {"bytes_out": row.bytes_up, "bytes_in": row.bytes_down, "bytes": total}
    if row.status is not None:
        event["status_code"] = str(row.status)
    if row.detail is not None:
        event["status_detail"] = row.detail
    if row.user is not None:
        event["actor"] = {"user": {"uid": str(row.user)}}
    if row.attempts != 1:
        event["count"] = row.attempts
    return event | _of_class(kind, row)


def metadata(event: str, sandbox: str, time: str) -> dict[str, object]:
    """Say what every event says of itself."""
    return {
        "version": OCSF_VERSION,
        "product": {"name": "sandhold", "vendor_name": "sandhold", "version": VERSION},
        "uid": event,
        "log_name": sandbox,
        "original_time": time,
    }


def milliseconds(time: str) -> int:
    """Return a record's time as OCSF has it, in milliseconds since the epoch."""
    return int(datetime.fromisoformat(time).timestamp() * 1000)


def _of_class(kind: int, row: Row) -> dict[str, object]:
    if kind == _HTTP:
        url = _without_none({"hostname": row.host, "port": row.port, "path": row.path, "scheme": "http"})
        answer = {} if row.status is None else {"http_response": {"code": row.status}}
        return {"http_request": {"http_method": row.method, "url": url}, **answer}
    if kind == _DNS:
        return {"query": _without_none({"hostname": row.host, "type": row.protocol})}
    return {}


def _activity(kind: int, row: Row) -> int:
    if kind == _HTTP:
        return _METHODS.get(row.method or "", _OTHER)
    if kind == _DNS:
        return _QUERY
    if row.effect is Effect.DENY:
        return _REFUSE
    if row.why in _FAILED:
        return _FAIL
    if row.why in _BROKEN_OFF:
        return _RESET
    return _OPEN if row.why is None else _CLOSE


def _connection(row: Row) -> dict[str, object]:
    name = row.protocol if row.kind is RowKind.DROPPED and row.protocol else "tcp"
    name = "udp" if row.is_lookup else name
    number = _PROTOCOL_NUMBERS.get(name)
    return _without_none({"direction_id": _OUTBOUND, "protocol_name": name, "protocol_num": number, "uid": row.event})


def _naming(row: Row) -> str:
    """Return the attribute that a host stands in: an address has one of its own."""
    return "ip" if ":" in row.host or row.host.replace(".", "").isdigit() else "hostname"


def _values(row: Row) -> tuple[object, ...]:
    host = None if row.host == UNNAMED else row.host
    return (
        row.time, row.sandbox, row.event, row.kind.value, row.effect.value, host, row.port, row.protocol, row.method,
        row.path, row.status, row.bytes_up, row.bytes_down, row.duration_s, row.because, row.why, row.generation,
        row.via, row.detail, row.attempts, row.user,
    )  # fmt: skip


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _without_none(values: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}
