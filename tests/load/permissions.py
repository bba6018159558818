"""What a trail on disk permits, read along as it grows: asked by a far end at the moment somebody reaches it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class Permissions:
    """Allowed connections and requests by port, as far as whole lines of the trail say; also a digest of those lines.

    A crash may cost the torn end of a file, never a line that was read here: `is_kept` compares.
    """

    def __init__(self, trail: Path) -> None:
        self._trail = trail
        self._offset = 0
        self._digest = hashlib.sha256()
        self.connections: Counter[int] = Counter()
        self.requests: Counter[int] = Counter()

    def read(self) -> None:
        """Read what was added since the last time."""
        for record in self._new():
            if record.get("decision") == "allow" and record["kind"] in ("connection", "request"):
                counter = self.connections if record["kind"] == "connection" else self.requests
                counter[record["port"]] += 1

    def is_kept(self) -> bool:
        """Whether everything that was ever read still stands where it stood."""
        data = self._trail.read_bytes()[: self._offset] if self._offset else b""
        return hashlib.sha256(data).digest() == self._digest.digest()

    def _new(self) -> list[dict[str, Any]]:
        try:
            with self._trail.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._digest.update(whole)
        return [json.loads(line) for line in whole.splitlines()]
