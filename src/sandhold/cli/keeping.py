"""`sbx stop --anchor`: the head of a stopped sandbox's trail, kept at a place of the user's choice."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandhold.cli import output
from sandhold.errors import SbxError
from sandhold.session.anchoring import anchor_outside, record_failure, shown_target
from sandhold.session.circumstances import CLOCK
from sandhold.session.policies import HOST_SESSION
from sandhold.store.audit import Trail
from sandhold.store.heads import head_text
from sandhold.store.records import head as trail_head

if TYPE_CHECKING:
    from sandhold.paths import Paths


def keep_end(paths: Paths, name: str, target: str) -> bool:
    """Keep the head of a stopped sandbox's trail at a place of the user's choice; whether that worked, said either way.

    Raises:
        SbxError: when the trail has no head that could be kept.
    """
    try:
        head = trail_head(paths.trail(name))
        with Trail.open(paths.trail(name), name, HOST_SESSION, CLOCK) as trail:
            problem = anchor_outside(target, name, head, os.environ)
            if problem is not None:
                record_failure(trail, target, head, problem)
    except (OSError, ValueError) as error:
        raise SbxError(f"the trail of `{name}` has no head that can be kept: {error}") from error
    if problem is None:
        output.say(f"kept {head_text(head)} at {output.safe(shown_target(target))}")
        return True
    output.warn(output.safe(f"{shown_target(target)} did not take the head of `{name}`: {problem}"))
    return False
