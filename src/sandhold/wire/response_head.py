"""The head of one HTTP/1 response (RFC 9112 sections 4 and 6.3); lines, fields and framing as in `fields`.

1. The status line is `HTTP/1.1` or `HTTP/1.0`, one space, three digits from 100 on, and optionally one space and a
   reason without control bytes.
2. No body follows a response to HEAD, an interim response, 101, 204, 304 or a 2xx to CONNECT, whatever its fields say.
3. Of these, 1xx and 204 must not announce a body either: one side would wait for it.
4. Otherwise the fields say where the body ends; when they do not, it ends when the far end closes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandhold.wire import fields as lines_of
from sandhold.wire.fields import MalformedHeadError
from sandhold.wire.framing import NoBody, UntilClose
from sandhold.wire.need_more import NEED_MORE, NeedMore

if TYPE_CHECKING:
    from sandhold.wire.fields import Fields
    from sandhold.wire.framing import ResponseFraming

__all__ = ["MalformedHeadError", "ResponseHead", "downstream_head", "read_response_head"]

_STATUS_LINE = re.compile(rb"(HTTP/1\.[01]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?")


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """One response head; `version` as for requests.

    `is_keep_alive` is about the connection to the far end; it is False when the body ends only with it.
    """

    status: int
    reason: bytes
    version: str
    headers: Fields
    framing: ResponseFraming
    is_keep_alive: bool

    @property
    def is_interim(self) -> bool:
        """Whether another head follows for the same request (RFC 9110 section 15.2)."""
        return 100 <= self.status < 200 and self.status != 101

    @property
    def is_upgrade(self) -> bool:
        """Whether both sides leave HTTP after this head."""
        return self.status == 101

    def values(self, name: bytes) -> tuple[bytes, ...]:
        """Every value of the fields called `name` (lower case), in order."""
        return lines_of.field_values(self.headers, name)


def read_response_head(buffer: bytes, request_method: str) -> tuple[ResponseHead, int] | NeedMore:
    """Read the response head that `buffer` starts with; the number is how many bytes it took.

    Raises:
        MalformedHeadError: when it is refused; final, whatever follows.
    """
    head = lines_of.split_head(buffer)
    if head is NEED_MORE:
        return NEED_MORE
    lines, consumed = head
    match = _STATUS_LINE.fullmatch(lines[0])
    if match is None:
        raise MalformedHeadError("not a status line of HTTP/1")
    version = match[1].decode("ascii")
    status = int(match[2])
    headers = lines_of.parse_fields(lines[1:])
    framing = _find_framing(status, headers, version, request_method)
    response = ResponseHead(
        status=status,
        reason=match[3] or b"",
        version=version,
        headers=headers,
        framing=framing,
        is_keep_alive=not isinstance(framing, UntilClose) and lines_of.is_keep_alive(headers, version),
    )
    return response, consumed


def downstream_head(head: ResponseHead, *, close: bool = False) -> bytes:
    """Rebuild the head for the sandbox without the fields that were for our connection to the far end.

    A 101 keeps its `Upgrade`; `close` adds `Connection: close`, which a body that ends with the connection needs.
    """
    kept = list(lines_of.end_to_end(head.headers))
    if head.is_upgrade:
        kept += [(b"Upgrade", value) for value in head.values(b"upgrade")]
        kept.append((b"Connection", b"Upgrade"))
    elif close:
        kept.append((b"Connection", b"close"))
    start_line = b"%b %d %b" % (head.version.encode("ascii"), head.status, head.reason)
    return lines_of.write_head(start_line, tuple(kept))


def _find_framing(status: int, headers: Fields, version: str, request_method: str) -> ResponseFraming:
    framing = lines_of.parse_framing(headers, version)
    if status < 200 or status == 204:
        if framing is not None and not isinstance(framing, NoBody):
            raise MalformedHeadError("a status without a body announces one")
        return NoBody()
    if request_method == "HEAD" or status == 304 or (request_method == "CONNECT" and status < 300):
        return NoBody()
    return framing if framing is not None else UntilClose()
