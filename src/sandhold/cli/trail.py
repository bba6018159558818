"""`sbx policy log`: the audit trail, as it stands, as it grows, and whether it is whole."""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Final

import click

from sandhold.cli import output
from sandhold.cli.durations import parse_duration
from sandhold.errors import EXIT_FAILED, EXIT_USAGE, SbxError
from sandhold.model.rule import Effect
from sandhold.model.sandbox import Status, is_sandbox_name
from sandhold.paths import Paths
from sandhold.session import presence
from sandhold.store import sandboxes
from sandhold.store.database import read_only
from sandhold.store.records import Tail, complete_size, read_backwards
from sandhold.store.summary import LiveRows, RowKind, Wanted, newest_rows
from sandhold.store.verification import remembered_heads, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandhold.store.records import Record
    from sandhold.store.summary import Row

POLL_S: Final = 0.2  # how old what `-f` shows can be
EFFECT_COLUMNS: Final = 10
HOST_COLUMNS: Final = 28

_WORDS: Final = {Effect.ALLOW: "ALLOWED", Effect.DENY: "BLOCKED"}
_WIDE: Final = ("TIME", "DECISION", "HOST", "PORT", "STATUS", "METHOD", "PATH", "UP", "DOWN", "SECONDS", "RULE")


@click.command("log")
@click.argument("name", required=False)
@click.option("-f/-F", "--follow/--no-follow", "is_followed", default=None, help="Go on as it grows.")
@click.option("--since", metavar="WHEN", help="From then on: `30m` ago, or a time as ISO 8601.")
@click.option("--until", metavar="WHEN", help="Until then.")
@click.option("--decision", type=click.Choice(["allowed", "blocked"]), help="Only these.")
@click.option("--host", metavar="GLOB", help="Only this host.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the newest so many.")
@click.option("--wide", is_flag=True, help="Add time, port, method, path, bytes, duration and the rule or reason.")
@click.option("--json", "as_json", is_flag=True, help="Print the records themselves, a line each.")
@click.option("--verify", "is_verified", is_flag=True, help="Check the hash chain and name the first broken record.")
def log(  # noqa: PLR0913 - a command has as many arguments as options
    *,
    name: str | None,
    is_followed: bool | None,
    since: str | None,
    until: str | None,
    decision: str | None,
    host: str | None,
    limit: int | None,
    wide: bool,
    as_json: bool,
    is_verified: bool,
) -> int:
    """Show what sandboxes tried on the network: the decision, the host, and the status it got.

    Live on a terminal while sandbox NAME runs. The trail of a deleted sandbox is still there.
    """
    paths = Paths.from_environment(os.environ)
    trails = _trails(paths, name)
    if is_verified:
        return _verify(paths, trails)
    wanted = Wanted(
        since=_moment(since),
        until=_moment(until),
        effect={"allowed": Effect.ALLOW, "blocked": Effect.DENY, None: None}[decision],
        host=host,
        has_lookups=wide,
    )
    if is_followed is None:
        is_followed = name is not None and sys.stdout.isatty() and _is_running(paths, name) and until is None
    still = _until_it_stops(paths, name)
    if as_json:
        _show_records(trails, wanted, limit, still if is_followed else None)
    else:
        _show_rows(trails, wanted, limit, still if is_followed else None, _wide_line if wide else _line)
    return 0


def _trails(paths: Paths, name: str | None) -> list[Path]:
    if name is None:
        return sorted(paths.trails.glob("*.jsonl")) if paths.trails.is_dir() else []
    if name == paths.host_trail.stem:
        return [paths.host_trail] if paths.host_trail.exists() else []
    if not is_sandbox_name(name) or not paths.trail(name).exists():
        with closing(read_only(paths.database)) as database:
            sandboxes.get(database, name)
        return []
    return [paths.trail(name)]


def _verify(paths: Paths, trails: list[Path]) -> int:
    status = 0
    with closing(read_only(paths.database)) as database:
        for path in trails:
            found = verify(path, remembered_heads(database, path.stem))
            if found.is_intact:
                output.show(f"{path.stem}: {found.records} records, unbroken")
            else:
                status = EXIT_FAILED
                where = "" if found.broken_line is None else f"line {found.broken_line}: "
                output.show(
                    f"{path.stem}: broken after {found.records} records: {where}{output.safe(found.problem or '')}"
                )
    if not trails:
        output.say("no audit trail yet")
    return status


def _show_rows(
    trails: list[Path],
    wanted: Wanted,
    limit: int | None,
    goes_on: Callable[[], bool] | None,
    line: Callable[[Row], str],
) -> None:
    starts = [(path, complete_size(path)) for path in trails]
    pages = [newest_rows(read_backwards(path, size), wanted, limit) for path, size in starts]
    found = (page.rows if goes_on is None else page.answered for page in pages)
    rows = sorted((row for of_trail in found for row in of_trail), key=lambda row: row.time)
    if not rows and goes_on is None:
        output.say("no connection on record fits")
        return
    if line is _wide_line and goes_on is None:
        output.table(_WIDE, [_wide_cells(row) for row in (rows[-limit:] if limit else rows)])
        return
    for row in rows[-limit:] if limit else rows:
        output.show(line(row))
    if goes_on is None:
        return
    live = [LiveRows(wanted) for _ in trails]
    for rows_of, page in zip(live, pages, strict=True):
        for record in page.pending:
            rows_of.feed(record)
    for number, record in _growing(starts, goes_on):
        for row in live[number].feed(record):
            output.show(line(row))


def _show_records(trails: list[Path], wanted: Wanted, limit: int | None, goes_on: Callable[[], bool] | None) -> None:
    starts = [(path, complete_size(path)) for path in trails]
    found = [
        record
        for path, size in starts
        for record in islice(filter(_matcher(wanted), read_backwards(path, size)), limit)
    ]
    found.sort(key=lambda record: (record.time, record.sandbox, record.seq))
    for record in found[-limit:] if limit else found:
        output.show(record.raw.decode("ascii", "backslashreplace"))
    if goes_on is not None:
        for _, record in _growing(starts, goes_on):
            if _matcher(wanted)(record):
                output.show(record.raw.decode("ascii", "backslashreplace"))


def _growing(starts: list[tuple[Path, int]], goes_on: Callable[[], bool]) -> Iterator[tuple[int, Record]]:
    """Yield records as they come, with the number of their trail, for as long as it goes on."""
    tails = [Tail(path, offset) for path, offset in starts]
    while True:
        is_last = not goes_on()
        was_quiet = True
        for number, tail in enumerate(tails):
            for record in tail.poll():
                was_quiet = False
                yield number, record
        if was_quiet and is_last:
            return
        if was_quiet:
            time.sleep(POLL_S)


def _matcher(wanted: Wanted) -> Callable[[Record], bool]:
    since = None if wanted.since is None else datetime.fromtimestamp(wanted.since).astimezone()
    until = None if wanted.until is None else datetime.fromtimestamp(wanted.until).astimezone()

    def matches(record: Record) -> bool:
        if since is not None or until is not None:
            moment = datetime.fromisoformat(record.time) if record.time else None
            if moment is None or (since and moment < since) or (until and moment >= until):
                return False
        if wanted.effect is not None and record.decision != wanted.effect.value:
            return False
        return wanted.host is None or record.host == wanted.host

    return matches


def _line(row: Row) -> str:
    return f"{_word(row, EFFECT_COLUMNS)}{output.safe(_named(row)):<{HOST_COLUMNS}}{_status(row)}"


def _wide_line(row: Row) -> str:
    return "  ".join(output.safe(cell) for cell in _wide_cells(row))


def _wide_cells(row: Row) -> tuple[str, ...]:
    return (
        row.time,
        _WORDS[row.effect],
        _named(row),
        str(row.port) if row.port is not None else "-",
        _status(row),
        row.method or (row.protocol if row.kind is RowKind.LOOKUP else None) or "-",
        row.path or "-",
        str(row.bytes_up) if row.bytes_up is not None else "-",
        str(row.bytes_down) if row.bytes_down is not None else "-",
        f"{row.duration_s:.3f}" if row.duration_s is not None else "-",
        row.because if row.kind is not RowKind.LOOKUP else f"{row.because} (lookup)",
    )


def _named(row: Row) -> str:
    return f"{row.host} ({row.protocol})" if row.kind is RowKind.DROPPED else row.host


def _word(row: Row, columns: int) -> str:
    word = _WORDS[row.effect]
    return output.paint(word, "green" if row.effect is Effect.ALLOW else "red") + " " * (columns - len(word))


def _status(row: Row) -> str:
    return str(row.status) if row.status is not None else "-"


def _is_running(paths: Paths, name: str) -> bool:
    return presence.look(paths.sandbox(name)).status is Status.RUNNING


def _until_it_stops(paths: Paths, name: str | None) -> Callable[[], bool]:
    return lambda: name is None or _is_running(paths, name)


def _moment(text: str | None) -> float | None:
    if text is None:
        return None
    ago_s = parse_duration(text)
    if ago_s is not None:
        return time.time() - ago_s
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SbxError(
            f"`{text}` is no time", hint="for example `30m` (ago) or `2026-01-31T12:00:00`", status=EXIT_USAGE
        ) from None
    return moment.astimezone().timestamp()
