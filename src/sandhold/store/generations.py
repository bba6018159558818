"""The number of the policy that is in force, for those who need no more of it than that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandhold.errors import SbxError
from sandhold.model.rule import Generation, Posture
from sandhold.store.database import snapshot

if TYPE_CHECKING:
    from sandhold.store.database import Database


class PolicyUnreadableError(SbxError):
    """The stored policy is not one that can be enforced exactly; until it is mended, everything is denied."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"the policy cannot be read, so everything is denied: {problem}",
            hint="`sbx policy reset` removes every local rule and goes back to `balanced`",
        )


def generation(database: Database) -> Generation:
    """Return the number of the current generation.

    Raises:
        PolicyUnreadableError: when there is none.
    """
    with snapshot(database):
        return posture_of(database)[0]


def posture_of(database: Database) -> tuple[Generation, Posture]:
    """Return the current generation, and what holds where none of its rules matches.

    Raises:
        PolicyUnreadableError: when either is missing, or none that this version knows.
    """
    rows = database.execute("SELECT generation, posture FROM policy").fetchall()
    if len(rows) != 1:
        raise PolicyUnreadableError("the posture is missing")
    number, posture = rows[0]
    if number < 1:
        raise PolicyUnreadableError(f"{number} is the number of no generation")
    if posture not in set(Posture):
        raise PolicyUnreadableError(f"`{posture}` is no posture that this version knows")
    return Generation(number), Posture(posture)
