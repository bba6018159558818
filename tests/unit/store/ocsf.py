"""Whether an event fits the published schema, by the copy of it in `ocsf_schema.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA: Mapping[str, Any] = json.loads(Path(__file__).with_name("ocsf_schema.json").read_text("utf-8"))
_NUMBERS = ("severity_id", "status_id", "action_id", "disposition_id")


def problems(event: Mapping[str, Any]) -> list[str]:
    """What of an event does not fit the schema."""
    its = SCHEMA["classes"][str(event["class_uid"])]
    found = _shape_problems("", its, event)
    if event.get("activity_id") not in its["activity_ids"] or event["class_name"] != its["name"]:
        found.append("no such activity or class")
    if [event.get("category_uid"), event["category_name"]] != its["category"]:
        found.append("not this category")
    if event.get("type_uid") != event["class_uid"] * 100 + event.get("activity_id", 0):
        found.append("not this type")
    found += [f"{name} is {event[name]}" for name in _NUMBERS if name in event and event[name] not in SCHEMA[name]]
    if event.get("metadata", {}).get("version") != SCHEMA["version"] or not isinstance(event.get("time"), int):
        found.append("another version, or a time that is no number")
    return found + [problem for name, value in event.items() for problem in _object_problems(name, value)]


def _object_problems(name: str, value: object) -> list[str]:
    if name not in SCHEMA["objects"]:
        return []
    its = SCHEMA["objects"][name]
    assert isinstance(value, dict)
    found = _shape_problems(f"{name}.", its, value)
    for each, numbers in its.get("enums", {}).items():
        found += [f"{name}.{each} is {value[each]}"] if each in value and value[each] not in numbers else []
    return found + [problem for each, inner in value.items() for problem in _object_problems(each, inner)]


def _shape_problems(prefix: str, its: Mapping[str, Any], value: Mapping[str, Any]) -> list[str]:
    found = [f"{prefix}{name} is missing" for name in its["required"] if name not in value]
    found += [f"{prefix}{name} is unknown" for name in value if name not in its["attributes"]]
    one_of = its["constraints"].get("at_least_one")
    return found + ([f"{prefix[:-1]} names nothing"] if one_of and not set(value) & set(one_of) else [])
