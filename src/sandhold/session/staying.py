"""Whether a session goes on without whoever asks.

The session is asked (`control.Ask`, answered by `control.State`), with no more modules than that takes.
"""

from __future__ import annotations

import json
import select
from typing import TYPE_CHECKING, Final

from sandhold.session import packets

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

PROMPT_S: Final = 0.02  # a session that stays answers in a fiftieth of this; one that ends closes the connection


def stays(folder: str | os.PathLike[str], meanwhile: Callable[[], object]) -> bool:
    """Whether the session of the sandbox with this folder has more to do; False when it ends, or has ended.

    `meanwhile` is called once where that takes longer than a session that stays takes.
    """
    sock = packets.connect(folder)
    if sock is None:
        return False
    with sock:
        try:
            packets.send(sock, b'{"type":"ask"}')
            if not select.select([sock], [], [], PROMPT_S)[0]:
                meanwhile()
            packet, descriptors = packets.receive(sock, packets.SEND_TIMEOUT_S)
        except packets.ChannelError:
            return False  # it is ending and listens to nobody any more
    packets.close_all(descriptors)
    try:
        said = json.loads(packet)
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("type") == "state" and said.get("stays") is True
