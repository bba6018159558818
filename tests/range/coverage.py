"""The table of SECURITY.md: what a hostile agent will try, and what holds it. Python's own library only.

`threats.toml` has a row for each; the attempts of the range that begin with a row's id count for it too.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
BEGIN: Final = "<!-- written by scripts/update-coverage -->\n"
END: Final = "<!-- end -->\n"

_FAMILIES: Final = {
    "A": "Names",
    "B": "Ports and rules",
    "C": "Names and addresses, looked up",
    "D": "Addresses",
    "E": "TLS",
    "F": "HTTP",
    "G": "Other protocols",
    "H": "Settings of programs",
    "I": "From inside: root, namespaces, the kernel",
    "J": "From the workspace to the host",
    "K": "Credentials",
    "L": "The audit trail",
    "M": "Between sandboxes, and towards the control plane",
    "N": "Races, starts and ends",
    "O": "Exhaustion",
}
_ATTEMPT: Final = re.compile(r'^    "([A-Z]\d\d) ', re.MULTILINE)
_TEST: Final = re.compile(r"^def (test_\w+)\(field", re.MULTILINE)


def table() -> str:
    """Write the section between the marks anew."""
    rows: dict[str, dict[str, Any]] = {}
    families = tomllib.loads((HERE / "threats.toml").read_text("utf-8"))
    attempts = _attempts()
    for family in families.values():
        rows |= family
    counts = Counter(_state(identity, row, attempts) for identity, row in rows.items())
    made = sum(sum(found.values()) for found in attempts.values())
    lines = [
        f"{len(rows)} ways were thought of: {counts['held']} are held by tests, {counts['not']} do not apply, "
        f"{counts['open']} are open. On the range, {made} attempts at {len(attempts)} of them are each made where "
        "nothing holds them and they arrive, and then in sandboxes, where no packet that policy does not allow may "
        f"leave: {made} of {made} contained (`./test tests/range`).\n"
    ]
    for letter, family in families.items():
        lines.append(f"\n### {letter} {_FAMILIES[letter]}\n\n| | tried | held by |\n|---|---|---|\n")
        lines += [
            f"| {identity} | {row['what']} | {_held(identity, row, attempts)} |\n" for identity, row in family.items()
        ]
    return "".join(lines)


def unheld() -> list[str]:
    """Name the rows that nothing holds and that do not say why, and the attempts that belong to no row."""
    attempts = _attempts()
    rows = {
        key: row
        for family in tomllib.loads((HERE / "threats.toml").read_text("utf-8")).values()
        for key, row in family.items()
    }
    silent = [key for key, row in rows.items() if key not in attempts and not {"by", "not", "open"} & row.keys()]
    return [*silent, *(attempts.keys() - rows.keys())]


def _attempts() -> dict[str, Counter[str]]:
    """Count the attempts of the range by row and test."""
    found: dict[str, Counter[str]] = {}
    for path in sorted(HERE.glob("test_*.py")):
        text = path.read_text("utf-8")
        for identity in _ATTEMPT.findall(text):
            found.setdefault(identity, Counter())[f"tests/range/{path.name}::{_TEST.findall(text)[0]}"] += 1
    return found


def _state(identity: str, row: dict[str, Any], attempts: dict[str, Counter[str]]) -> str:
    return next((word for word in ("open", "not") if word in row and identity not in attempts), "held")


def _held(identity: str, row: dict[str, Any], attempts: dict[str, Counter[str]]) -> str:
    parts = [f"`{test}` ({count})" for test, count in attempts.get(identity, Counter()).items()]
    for name in row.get("by", ()):
        module, _, function = name.partition(":")
        parts.append(f"`tests/{module}.py::test_{function}`")
    if "not" in row:
        parts.append(f"does not apply: {row['not']}")
    if "open" in row:
        parts.append(f"**open**: {row['open']}")
    return ", ".join(parts)
