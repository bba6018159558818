"""`sbx policy log --verify`: whether trails are whole, by their own chains and by the heads kept elsewhere."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from sandhold.cli import output
from sandhold.errors import EXIT_FAILED, EXIT_USAGE, SbxError
from sandhold.model.sandbox_name import is_sandbox_name
from sandhold.session.policies import HOST_SESSION
from sandhold.store import sandboxes
from sandhold.store.database import read_only
from sandhold.store.heads import HeadsUnreadableError, head_text, read_heads
from sandhold.store.verification import anchored_trails, remembered_heads, verify

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sandhold.paths import Paths
    from sandhold.store.records import Head
    from sandhold.store.verification import Verification


def verify_trails(paths: Paths, name: str | None, anchor: Path | None, *, as_json: bool) -> int:
    """Check one trail, or all there are and all that anchors say there were; print a line each; exit status 1 when one
    is broken.

    Raises:
        SbxError: when the heads kept elsewhere cannot be read, or there are none of the trail that is to be compared.
    """
    kept = {} if anchor is None else _kept_heads(anchor, name)
    with closing(read_only(paths.database)) as database:
        anchored = {*anchored_trails(database), *kept}
        if name is None:
            names = sorted({path.stem for path in paths.trails.glob("*.jsonl")} | anchored)
        else:
            names = [name]
            if name not in anchored and name != paths.host_trail.stem and not _is_there(paths, name):
                sandboxes.get(database, name)
        remembered = {each: remembered_heads(database, each) for each in names}
    found = [_verified(paths, each, remembered[each], kept.get(each, ())) for each in names]
    if as_json:
        output.show_json([_facts(each, verification, outside) for each, verification, outside in found])
    else:
        for each, verification, outside in found:
            output.show(f"{output.safe(each)}: {_words(verification, None if anchor is None else outside)}")
    if not found:
        output.say("no audit trail yet")
    return 0 if all(verification.is_intact for _, verification, _ in found) else EXIT_FAILED


def _is_there(paths: Paths, name: str) -> bool:
    return is_sandbox_name(name) and paths.trail(name).exists()


def _verified(
    paths: Paths, name: str, remembered: tuple[Head, ...], kept: tuple[Head, ...]
) -> tuple[str, Verification, int]:
    sandbox = HOST_SESSION if name == paths.host_trail.stem else name
    return name, verify(paths.trail(name), (*remembered, *kept), sandbox), len(kept)


def _kept_heads(anchor: Path, name: str | None) -> Mapping[str, tuple[Head, ...]]:
    try:
        kept = read_heads(anchor)
    except HeadsUnreadableError as error:
        raise SbxError(f"`{anchor}` cannot be compared with: {error}", status=EXIT_USAGE) from error
    except OSError as error:
        raise SbxError(f"`{anchor}` cannot be read: {error.strerror or error}", status=EXIT_USAGE) from error
    if not kept if name is None else name not in kept:
        whose = "" if name is None else f" of `{name}`"
        raise SbxError(
            f"`{anchor}` holds no head{whose}, so there is nothing to compare",
            hint="`--anchor FILE` of `sbx run`, `create` and `stop` keeps them there",
        )
    return kept


def _words(found: Verification, outside: int | None) -> str:
    if not found.is_intact:
        where = "" if found.broken_line is None else f"line {found.broken_line}: "
        return f"broken after {found.records} records: {where}{output.safe(found.problem or '')}"
    compared = "" if outside is None else f", {outside} heads kept elsewhere are in it"
    return f"{found.records} records, unbroken{compared}, head {head_text(found.head)}"


def _facts(name: str, found: Verification, outside: int) -> dict[str, object]:
    return {
        "trail": name,
        "is_intact": found.is_intact,
        "records": found.records,
        "head": {"seq": found.head.seq, "hash": found.head.hash},
        "torn_bytes": found.torn_bytes,
        "broken_line": found.broken_line,
        "problem": found.problem,
        "heads_kept_elsewhere": outside,
    }
