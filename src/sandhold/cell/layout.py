"""Names of places that belong to a sandbox, on the host and inside, for whoever only looks there."""

from __future__ import annotations

from typing import Final

AGENT_HOME: Final = "/home/agent"
LAYER_FOLDER: Final = "layer"  # in the sandbox's folder on the host
ROOT_UPPER: Final = "root.upper"  # where a layer keeps what differs from the root it lies over
