"""Records about a sandbox and its policy, rather than its connections, as other programs read them, pure.

Each is one event of the Open Cybersecurity Schema Framework, in the version of `exports.py`: Entity Management (class
3004) for the policy, Application Lifecycle (6002) for sessions and the trail, Scan Activity (6007) for `sbx verify`,
Detection Finding (2004) for what was changed in a workspace. What the schema has no place for is under `unmapped`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandhold.store.exports import metadata, milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandhold.store.records import Record

_INFORMATIONAL, _MEDIUM, _HIGH, _CRITICAL = 1, 3, 4, 5
_SUCCESS, _FAILURE = 1, 2
_CREATE, _UPDATE, _DELETE, _ACTIVATE = 1, 3, 4, 10
_START, _STOP = 3, 4
_COMPLETED: Final = 2
_OTHER: Final = 99
_POLICY: Final = 5
_MANUAL: Final = 1
_ACTIONS: Final = {"allow": _CREATE, "deny": _CREATE, "rm": _DELETE, "init": _UPDATE, "reset": _UPDATE}
_WANTED_ENDS: Final = frozenset({"stopped", "idle"})


@dataclass(frozen=True, slots=True)
class _Class:
    uid: int
    name: str
    category: str


_ENTITY: Final = _Class(3004, "Entity Management", "Identity & Access Management")
_LIFECYCLE: Final = _Class(6002, "Application Lifecycle", "Application Activity")
_SCAN: Final = _Class(6007, "Scan Activity", "Application Activity")
_FINDING: Final = _Class(2004, "Detection Finding", "Findings")


def ocsf_change(record: Record) -> dict[str, object] | None:
    """Write a record as an OCSF event; None for those that rows are made of, and those that cannot be read."""
    write = _WRITERS.get(record.kind)
    if write is None:
        return None
    event = write(record)
    if record.actor is not None:
        event["actor"] = {"user": {"name": record.actor}}
    return event


def _policy_changed(record: Record) -> dict[str, object]:
    action = record.action or ""
    event = _event(record, _ENTITY, _ACTIONS.get(action, _OTHER), is_success=action in _ACTIONS)
    about = {
        "resources": list(record.resources),
        "rules": list(record.rules),
        "scope": record.scope,
        "expires_at": record.expires_at,
    }
    event["activity_name"] = action
    event["entity"] = _policy(record.generation)
    event["comment"] = " ".join((action, *record.resources))
    event["unmapped"] = {name: value for name, value in about.items() if value}
    return event


def _generation_switched(record: Record) -> dict[str, object]:
    event = _event(record, _ENTITY, _ACTIVATE)
    event["entity"] = _policy(record.after)
    event["unmapped"] = {"sandbox": record.sandbox, "before": record.before, "connections_cut": record.cut}
    return event


def _session_started(record: Record) -> dict[str, object]:
    event = _event(record, _LIFECYCLE, _START)
    event["app"] = _app(record)
    event["unmapped"] = {
        "session": record.session,
        "agent": record.agent,
        "isolation": record.isolation,
        "template": record.template,
        "generation": record.generation,
    }
    return event


def _session_stopped(record: Record) -> dict[str, object]:
    event = _event(record, _LIFECYCLE, _STOP, is_success=record.reason in _WANTED_ENDS)
    event["app"] = _app(record)
    event["status_detail"] = "; ".join(filter(None, (record.reason, record.detail)))
    event["unmapped"] = {"session": record.session}
    return event


def _recovered(record: Record) -> dict[str, object]:
    event = _event(record, _LIFECYCLE, _OTHER)
    event["app"] = _app(record)
    event["activity_name"] = "audit trail recovered"
    event["unmapped"] = {"torn_bytes": record.torn_bytes}
    return event


def _anchor_failed(record: Record) -> dict[str, object]:
    event = _event(record, _LIFECYCLE, _OTHER, is_success=False)
    event["app"] = _app(record)
    event["activity_name"] = "audit trail not anchored"
    event["status_detail"] = record.problem or ""
    event["unmapped"] = {"target": record.target, "head_seq": record.head_seq, "head_hash": record.head_hash}
    return event


def _verified(record: Record) -> dict[str, object]:
    event = _event(record, _SCAN, _COMPLETED, is_success=not record.escaped)
    event["severity_id"] = _CRITICAL if record.escaped else _INFORMATIONAL
    event["scan"] = {"name": "sbx verify", "type_id": _MANUAL, "uid": record.event}
    event["total"] = record.attempts
    event["num_detections"] = record.escaped
    event["num_skipped_items"] = record.skipped
    event["unmapped"] = {"sandbox": record.sandbox}
    return event


def _workspace_changed(record: Record) -> dict[str, object]:
    event = _event(record, _FINDING, _CREATE)
    event["severity_id"] = _MEDIUM
    event["finding_info"] = {
        "uid": record.event,
        "title": "Files that run by themselves on the host were changed in a workspace",
    }
    files = [{"what": each.what, "path": each.path, "why": each.why} for each in record.files]
    event["unmapped"] = {"sandbox": record.sandbox, "files": files, "more": record.more, "unseen": record.unseen}
    return event


def _event(record: Record, kind: _Class, activity: int, *, is_success: bool = True) -> dict[str, object]:
    return {
        "category_uid": kind.uid // 1000,
        "category_name": kind.category,
        "class_uid": kind.uid,
        "class_name": kind.name,
        "activity_id": activity,
        "type_uid": kind.uid * 100 + activity,
        "severity_id": _INFORMATIONAL if is_success else _HIGH,
        "status_id": _SUCCESS if is_success else _FAILURE,
        "time": milliseconds(record.time),
        "metadata": metadata(record.event, record.sandbox, record.time) | {"profiles": ["host"]},
    }


def _policy(generation: int | None) -> dict[str, object]:
    return {"name": "network policy", "type_id": _POLICY, "type": "Policy", "version": str(generation)}


def _app(record: Record) -> dict[str, object]:
    app: dict[str, object] = {"name": record.sandbox, "vendor_name": "sandhold"}
    return app | ({"version": record.version} if record.version is not None else {})


_WRITERS: Final[Mapping[str, Callable[[Record], dict[str, object]]]] = {
    "policy-changed": _policy_changed,
    "generation-switched": _generation_switched,
    "session-started": _session_started,
    "session-stopped": _session_stopped,
    "recovered": _recovered,
    "anchor-failed": _anchor_failed,
    "verified": _verified,
    "workspace-changed": _workspace_changed,
}
