"""How a session is, asked of itself with no more modules than that takes.

The question is `control.Ask`, the answer `control.State`.
"""

from __future__ import annotations

import json
import select
from typing import TYPE_CHECKING, Final

from sandhold.session import packets

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

PROMPT_S: Final = 0.005  # a session that stays answers in a tenth of this; one that ends takes thirty milliseconds


def stays(folder: str | os.PathLike[str], meanwhile: Callable[[], object]) -> bool:
    """Whether the session of the sandbox with this folder has more to do; False when it ends, or has ended.

    `meanwhile` is called once where that takes longer than a session that stays takes.
    """
    return _state(folder, meanwhile).get("stays") is True


def notes(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return what this host cannot give to a running sandbox, a sentence each; nothing when it does not answer."""
    said = _state(folder, meanwhile=tuple).get("notes")
    return tuple(map(str, said)) if isinstance(said, list) else ()


def _state(folder: str | os.PathLike[str], meanwhile: Callable[[], object]) -> dict[str, object]:
    sock = packets.connect(folder)
    if sock is None:
        return {}
    with sock:
        try:
            packets.send(sock, b'{"type":"ask"}')
            if not select.select([sock], [], [], PROMPT_S)[0]:
                meanwhile()
            packet, descriptors = packets.receive(sock, packets.SEND_TIMEOUT_S)
        except packets.ChannelError:
            return {}  # it is ending and listens to nobody any more
    packets.close_all(descriptors)
    try:
        said = json.loads(packet)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) and said.get("type") == "state" else {}
