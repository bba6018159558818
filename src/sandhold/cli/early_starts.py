"""A session that a command needs and that does not run: begun as soon as that is known.

Where the start leaves nothing to say or to make, the command goes on the short way when it is ready. Otherwise the long
way takes it over, and what did not start is started again there, with all words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandhold.errors import SbxError
from sandhold.session import packets, remains

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from sandhold.session.launching import Begun
    from sandhold.store.glances import Glance


def begin(folder: str, sandbox: str, glance: Glance, environ: Mapping[str, str]) -> Begun | None:
    """Begin the session of the sandbox with this folder; None when something is to be made or put in order before."""
    if glance.isolation != "namespaces" or not remains.is_in_order(folder):
        return None
    from sandhold.paths import Paths  # noqa: PLC0415  with all that starts processes
    from sandhold.session import launching  # noqa: PLC0415

    return launching.begin(Paths.from_environment(environ), sandbox, environ)


def is_plain(data: str, glance: Glance) -> bool:
    """Whether the start of a session leaves nothing to say of its template; `data` is the folder `Paths.data`."""
    from sandhold.session.building.ready_templates import is_ready  # noqa: PLC0415  where a session starts

    return is_ready(data, glance.template)


def reached(begun: Begun, folder: str) -> socket.socket | None:
    """Wait for a session that was begun and connect to it; None when it did not start, or another one holds it."""
    try:
        return packets.connect(folder) if begun.wait() else None
    except SbxError:
        return None
