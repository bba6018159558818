"""The program that covers guards again that something on the host took away.

It is a process of its own because it enters the cell's mount namespace.
"""

from __future__ import annotations

import json
import signal
import socket
from typing import TYPE_CHECKING, Final

from sandhold.cell.inside.guards_inside import cover_again
from sandhold.cell.plan import Folder
from sandhold.linux.syscalls import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ORDER_BYTES_MAX: Final = 4 << 20  # as many guards as there may be, with the longest paths


def main(fds: Sequence[int]) -> None:
    """Run with the link, the order, the cell's mount namespace and, where it is not the host's, the user namespace it
    belongs to.

    The order is memory with a JSON object: `{"guards": [[path, is_read_only, is_file], ...]}`, those above before those
    below. The answer is another, over the link: `{"covered": number}` or `{"failed": text}`.
    """
    die_with_parent(signal.SIGKILL)
    with socket.socket(fileno=fds[0]) as link:
        with open(fds[1], "rb") as order:  # noqa: PTH123  a descriptor
            given = order.read(ORDER_BYTES_MAX)
        try:
            answer: dict[str, object] = {"covered": cover_again(fds[2:], tuple(_seen(json.loads(given)["guards"])))}
        except (OSError, ValueError) as error:
            answer = {"failed": str(error)[:2000]}
        link.send(json.dumps(answer).encode())


def _seen(guards: Sequence[tuple[str, bool, bool]]) -> Iterator[tuple[Folder, bool]]:
    """Look at each on the host's tree, while that is still ours."""
    for path, is_read_only, is_file in guards:
        try:
            yield Folder.look(path, is_file=is_file), is_read_only
        except OSError:
            continue  # it is gone, or no plain file: it cannot be covered
