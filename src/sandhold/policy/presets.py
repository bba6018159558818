"""The default groups: data in `presets.toml`, read here into rules.

    [default-something]
    purpose = "what the group is for"
    hosts = [
        { host = "api.example.com", purpose = "what this host is for" },
        { host = "deb.example.org", purpose = "...", ports = [80, 443] },
        { host = "*.blobs.example.com", purpose = "...", reason = "why no exact name does" },
    ]

Rules:

1. A group's name starts with `default-`; group and host each state their purpose.
2. A host is a name, by the grammar of `policy/syntax.py`, without ports; a wildcard needs a written reason.
3. The port is 443 unless `ports` says otherwise.
4. A key that is not named above, a missing one or a host that stands twice in a group is an error.
"""

from __future__ import annotations

import tomllib
from typing import Final

from sandhold.model.rule import PORT_MAX, Effect, NamePattern, Origin, PortRange, Rule, RuleId
from sandhold.policy.syntax import RuleSyntaxError, parse_resource

GROUP_PREFIX: Final = "default-"
_HTTPS: Final = [443]
_GROUP_KEYS: Final = frozenset({"purpose", "hosts"})
_HOST_KEYS: Final = frozenset({"host", "purpose", "ports", "reason"})


def parse_presets(text: str) -> tuple[Rule, ...]:
    """Read the text of `presets.toml` into rules, group by group in the order of the file.

    Raises:
        ValueError: when the text is not TOML, or breaks rules 1 to 4; the message names the entry.
    """
    rules: list[Rule] = []
    for name, group in tomllib.loads(text).items():
        if not name.startswith(GROUP_PREFIX) or not isinstance(group, dict):
            raise ValueError(f"`{name}` is no group: a group is a table whose name starts with `{GROUP_PREFIX}`")
        rules += _group_rules(name, group)
    return tuple(rules)


def _group_rules(name: str, group: dict[str, object]) -> list[Rule]:
    _refuse_unknown_keys(name, group, _GROUP_KEYS)
    _text(name, group, "purpose")
    entries = group.get("hosts")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"`{name}` has no list of tables `hosts`")
    rules: dict[str, Rule] = {}
    for position, entry in enumerate(entries, start=1):
        host = _text(f"{name}, host {position}", entry, "host")
        if host in rules:
            raise ValueError(f"`{name}: {host}` stands twice")
        rules[host] = _rule(name, host, entry)
    return list(rules.values())


def _rule(group: str, host: str, entry: dict[str, object]) -> Rule:
    where = f"{group}: {host}"
    _refuse_unknown_keys(where, entry, _HOST_KEYS)
    _text(where, entry, "purpose")
    try:
        pattern, _ = parse_resource(host, Effect.ALLOW)
    except RuleSyntaxError as error:
        raise ValueError(f"`{where}`: {error}") from error
    if not isinstance(pattern, NamePattern) or str(pattern) != host:
        raise ValueError(f"`{where}`: a default group names hosts alone, in lower case")
    if "*" in host or "?" in host:
        _text(where, entry, "reason")
    elif "reason" in entry:
        raise ValueError(f"`{where}`: only a wildcard has a `reason`")
    ports = _ports(where, entry)
    return Rule(
        id=RuleId(group),
        name=group,
        effect=Effect.ALLOW,
        pattern=pattern,
        ports=tuple(PortRange(port, port) for port in ports),
        resource=",".join(f"{host}:{port}" for port in ports),
        origin=Origin.PRESET,
    )


def _ports(where: str, entry: dict[str, object]) -> list[int]:
    ports = entry.get("ports", _HTTPS)
    if not isinstance(ports, list) or not ports or not all(_is_port(port) for port in ports):
        raise ValueError(f"`{where}`: `ports` is not a list of ports")
    return ports


def _is_port(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= PORT_MAX


def _text(where: str, table: dict[str, object], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`{where}` has no `{key}`")
    return value


def _refuse_unknown_keys(where: str, table: dict[str, object], known: frozenset[str]) -> None:
    for key in table:
        if key not in known:
            raise ValueError(f"`{where}`: unknown key `{key}`")
