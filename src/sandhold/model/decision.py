"""The answer for one request. There is no default: whoever makes one says which effect it has."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sandhold.model.rule import Effect

if TYPE_CHECKING:
    from sandhold.model.rule import Generation, Rule


class Reason(StrEnum):
    """Why a decision is what it is, when the rule alone does not say it. The values are shown and recorded."""

    RULE = "rule"
    """A rule matched; the decision names it."""
    POSTURE_ALLOWS = "posture-allow-all"
    """No rule matched and the posture is `allow-all`."""
    NO_RULE = "no-matching-rule"
    """No rule matched and the posture denies."""

    ADDRESS_FLOOR = "address-floor"
    """The address is private, loopback, link-local or otherwise special and no address rule names it."""
    METADATA_ADDRESS = "metadata-address"
    """The address is a cloud metadata service; nothing opens it."""
    POLICY_UNREADABLE = "policy-unreadable"
    RECORD_UNAVAILABLE = "record-unavailable"
    """The decision could not be put on durable record."""
    TRAIL_SPENT = "trail-spent"
    """The session has written as much into the trail as one may; the next session may again."""

    MALFORMED = "malformed"
    """The bytes are no opening, request or name that we read exactly as every other program would."""
    SNI_MISSING = "sni-missing"
    """TLS without a server name to a host that was opened by name."""
    NAME_MISMATCH = "name-mismatch"
    """The names the connection claims contradict one another."""
    NO_PROTOCOL = "no-protocol"
    """A CONNECT that carried neither TLS nor a protocol allowed for that port."""
    UNKNOWN_ADDRESS = "unknown-address"
    """A synthetic address that stands for no name."""

    OPENING_TIMEOUT = "opening-timeout"
    OPENING_TOO_LARGE = "opening-too-large"
    CONNECTION_LIMIT = "connection-limit"
    LOOKUP_LIMIT = "lookup-limit"
    TIME_LIMIT = "time-limit"

    SESSION_ENDED = "session-ended"
    """The sandbox was stopped before anybody took the connection on."""
    PROXY_SELF = "proxy-self"
    """The destination is the proxy itself."""
    INTERNAL_ERROR = "internal-error"
    """We are wrong; a crash denies."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Allow or deny, by which rule or for which reason, under which generation of the policy."""

    effect: Effect
    reason: Reason
    rule: Rule | None
    generation: Generation

    @property
    def is_allowed(self) -> bool:
        """Whether the effect is allow."""
        return self.effect is Effect.ALLOW

    @property
    def because(self) -> str:
        """What `policy log`, `policy check` and the refusal name: the rule when there is one, else the reason."""
        return self.rule.name if self.rule is not None else self.reason.value
