"""A name where only a name may stand: in TLS and in DNS, an address in the place of a name is refused."""

from __future__ import annotations

from sandhold.model.destination import HOST_SERVICE_NAMES, DomainName, HostService, MalformedError, parse_host


def parse_name(text: bytes) -> DomainName | HostService:
    """Read a name, also one of the user's machine, but no address (RFC 6066 section 3).

    Raises:
        MalformedError: when it is anything else, also `127.0.0.1`, which is the user's machine elsewhere.
    """
    host = parse_host(text)
    match host:
        case DomainName():
            return host
        case HostService() if text.decode("ascii").lower().removesuffix(".") in HOST_SERVICE_NAMES:
            return host
        case _:
            raise MalformedError("an address in the place of a name")
