"""Local rules as they are stored: each is checked at once, and becomes a `Rule` when somebody looks at it.

A million objects weigh most of a gigabyte and take a dozen seconds to make, and a connection looks at two or three of
them. What is kept of a rule for one plain name is its text and its id; any other rule is kept as it was read.

Rules:

1. Every row is read when the sequence is made; one that cannot be enforced exactly as written makes none of it.
2. A plain name is one that `parse_resource` reads as itself: canonical, without a wildcard, with one port or none.
   Whatever is not plainly that goes through `parse_resource` at once.
3. What a row means is always what `parse_resource` says it means, also when it is looked at later.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, overload

from sandhold.model.destination import HOST_SERVICE_NAMES, NAME_BYTES_MAX
from sandhold.model.rule import Effect, Origin, Rule, RuleId
from sandhold.policy.syntax import parse_resource

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Row = tuple[str, str, str, str | None, float | None]
    """Id, effect, resource, sandbox (None: every one), moment of expiry (None: never)."""

_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_LAST_LABEL: Final = r"[a-z](?:[a-z0-9_-]{0,61}[a-z0-9_])?"  # no number, in no spelling
_PLAIN = re.compile(rf"(?:{_LABEL}\.)+{_LAST_LABEL}(?::[1-9][0-9]{{0,3}})?")
_IS_DENYING: Final = {effect.value: effect is Effect.DENY for effect in Effect}


class StoredRuleError(ValueError):
    """A row that cannot be enforced; `str()` names its id and says why."""


class StoredRules(Sequence[Rule]):
    """Rules that came from elsewhere (`others`), and behind them local ones in the order of their rows (rule 1)."""

    __slots__ = ("_denying", "_expiries", "_ids", "_others", "_parsed", "_resources", "_sandboxes")

    def __init__(self, others: tuple[Rule, ...], rows: Iterable[Row]) -> None:
        """Check and keep every row.

        Raises:
            StoredRuleError: by rule 1.
        """
        self._others = others
        self._ids: list[str] = []
        self._resources: list[str] = []
        self._denying = bytearray()
        self._sandboxes: dict[int, str] = {}
        self._expiries: dict[int, float] = {}
        self._parsed: dict[int, Rule] = {}
        keep_id, keep_resource, keep_effect = self._ids.append, self._resources.append, self._denying.append
        for at, (identifier, effect, resource, sandbox, expires_at) in enumerate(rows):
            if effect not in _IS_DENYING:
                raise StoredRuleError(f"the rule `{identifier}` cannot be enforced: `{effect}` is no effect")
            keep_id(identifier)
            keep_resource(resource)
            keep_effect(_IS_DENYING[effect])
            if sandbox is not None:
                self._sandboxes[at] = sandbox
            if expires_at is not None:
                self._expiries[at] = expires_at
            if not is_plain(resource):
                self._parsed[at] = self._parse(at)

    def __len__(self) -> int:
        return len(self._others) + len(self._ids)

    @overload
    def __getitem__(self, position: int) -> Rule: ...
    @overload
    def __getitem__(self, position: slice) -> tuple[Rule, ...]: ...
    def __getitem__(self, position: int | slice) -> Rule | tuple[Rule, ...]:
        if isinstance(position, slice):
            return tuple(self[each] for each in range(*position.indices(len(self))))
        at = position + len(self) if position < 0 else position
        if not 0 <= at < len(self):
            raise IndexError(position)
        if at < len(self._others):
            return self._others[at]
        at -= len(self._others)
        return self._parsed.get(at) or self._parse(at)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoredRules):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]  # as of any other sequence that is compared by what it holds

    def plain_names(self, sandbox: str | None) -> Iterator[tuple[int, Effect, str]]:
        """Yield the position, effect and name of each plain rule for this sandbox or for every one."""
        before = len(self._others)
        sandboxes, parsed, denying = self._sandboxes, self._parsed, self._denying
        for at, resource in enumerate(self._resources):
            if at not in parsed and (not sandboxes or sandboxes.get(at) in (None, sandbox)):
                name = resource.partition(":")[0] if ":" in resource else resource
                yield before + at, Effect.DENY if denying[at] else Effect.ALLOW, name

    def not_plain(self) -> Iterator[tuple[int, Rule]]:
        """Yield the position of each other rule, and the rule."""
        yield from enumerate(self._others)
        before = len(self._others)
        for at, rule in self._parsed.items():
            yield before + at, rule

    def expiries(self) -> Iterator[float]:
        """Yield the moments at which rules expire."""
        yield from (rule.expires_at for rule in self._others if rule.expires_at is not None)
        yield from self._expiries.values()

    def _parse(self, at: int) -> Rule:
        identifier, resource = self._ids[at], self._resources[at]
        effect = Effect.DENY if self._denying[at] else Effect.ALLOW
        try:
            pattern, ports = parse_resource(resource, effect)
        except ValueError as error:
            raise StoredRuleError(f"the rule `{identifier}` cannot be enforced: {error}") from error
        return Rule(
            RuleId(identifier),
            identifier,
            effect,
            pattern,
            ports,
            resource,
            self._sandboxes.get(at),
            Origin.LOCAL,
            self._expiries.get(at),
        )


def is_plain(resource: str) -> bool:
    """Whether a resource is surely a plain name (rule 2); a plain one in an uncommon form may be said not to be."""
    return (
        _PLAIN.fullmatch(resource) is not None
        and len(resource) <= NAME_BYTES_MAX
        and resource.partition(":")[0] not in HOST_SERVICE_NAMES
    )
