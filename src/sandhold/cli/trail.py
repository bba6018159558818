"""`sbx policy log`: the audit trail, as it stands, as it grows, and whether it is whole."""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from sandhold.cli import output, rows
from sandhold.cli.durations import parse_duration
from sandhold.errors import EXIT_USAGE, SbxError
from sandhold.model.rule import Effect
from sandhold.model.sandbox import Status
from sandhold.model.sandbox_name import is_sandbox_name
from sandhold.paths import Paths
from sandhold.session import presence
from sandhold.store import sandboxes
from sandhold.store.database import read_only
from sandhold.store.records import Tail, complete_size, read_backwards
from sandhold.store.summary import LiveRows, Wanted, newest_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandhold.store.records import Record
    from sandhold.store.summary import Page, Row

POLL_S: Final = 0.2  # how old what `-f` shows can be


@click.command("log")
@click.argument("name", required=False)
@click.option("-f/-F", "--follow/--no-follow", "is_followed", default=None, help="Go on as it grows.")
@click.option("--since", metavar="WHEN", help="From then on: `30m` ago, or a time as ISO 8601.")
@click.option("--until", metavar="WHEN", help="Until then.")
@click.option("--decision", type=click.Choice(["allowed", "blocked"]), help="Only these.")
@click.option("--host", metavar="GLOB", help="Only this host.")
@click.option("--event", metavar="ID", help="Only this event, as a refusal names it.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the newest so many.")
@click.option("--wide", is_flag=True, help="Add time, port, method, path, bytes, duration and the rule or reason.")
@click.option("--json", "as_json", is_flag=True, help="Print the records themselves, a line each.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "csv", "ocsf"]),
    help="`json` is `--json`; `csv` are rows for a spreadsheet, `ocsf` everything as OCSF events.",
)
@click.option("--verify", "is_verified", is_flag=True, help="Check the hash chain and name the first broken record.")
@click.option(
    "--anchor", metavar="FILE", type=click.Path(path_type=Path), help="With `--verify`: compare with the heads in FILE."
)
def log(  # noqa: PLR0913 - a command has as many arguments as options
    *,
    name: str | None,
    is_followed: bool | None,
    since: str | None,
    until: str | None,
    decision: str | None,
    host: str | None,
    event: str | None,
    limit: int | None,
    wide: bool,
    as_json: bool,
    form: str | None,
    is_verified: bool,
    anchor: Path | None,
) -> int:
    """Show what sandboxes tried on the network: the decision, the host, and the status it got.

    Live on a terminal while sandbox NAME runs. The trail of a deleted sandbox is still there.
    """
    paths = Paths.from_environment(os.environ)
    if anchor is not None and not is_verified:
        raise SbxError("`--anchor` only goes with `--verify`", hint="add `--verify`", status=EXIT_USAGE)
    if is_verified:
        return _verify(paths, name, anchor, as_json=as_json or form == "json")
    trails = _trails(paths, name)
    if event is not None:
        _check_known(trails, event.upper())
    wanted = Wanted(
        since=_moment(since),
        until=_moment(until),
        effect={"allowed": Effect.ALLOW, "blocked": Effect.DENY, None: None}[decision],
        host=host,
        has_lookups=wide or form is not None or event is not None,
        event=event.upper() if event is not None else None,
    )
    if is_followed is None:
        is_followed = (
            name is not None and event is None and sys.stdout.isatty() and _is_running(paths, name) and until is None
        )
    still = _until_it_stops(paths, name)
    if as_json or form == "json":
        _show_records(trails, wanted, limit, still if is_followed else None)
    else:
        show = {"csv": rows.csv_line, "ocsf": rows.ocsf_line, None: rows.wide_line if wide else rows.line}[form]
        if form == "csv":
            output.show(rows.csv_header())
        _show_rows(trails, wanted, limit, still if is_followed else None, show)
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


def _check_known(trails: list[Path], event: str) -> None:
    """Say that nothing has this event, before nothing is shown.

    Raises:
        SbxError: when no record does.
    """
    if not any(event in (record.event, record.connection) for path in trails for record in read_backwards(path)):
        raise SbxError(f"no record has the event `{event}`", hint="a refusal names it as `x-sbx-event`, 26 characters")


def _verify(paths: Paths, name: str | None, anchor: Path | None, *, as_json: bool) -> int:
    from sandhold.cli.verifying import verify_trails  # noqa: PLC0415 - only this flag needs it

    return verify_trails(paths, name, anchor, as_json=as_json)


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
    shown = sorted((row for of_trail in found for row in of_trail), key=lambda row: row.time)
    changes = _changes(starts, wanted, limit) if line is rows.ocsf_line else []
    if not shown and not changes and goes_on is None:
        output.say("no connection on record fits")
        return
    if line is rows.wide_line and goes_on is None:
        output.table(rows.WIDE, [rows.wide_cells(row) for row in (shown[-limit:] if limit else shown)])
        return
    lines = sorted([*((row.time, line(row)) for row in shown), *changes], key=itemgetter(0))
    for _, text in lines[-limit:] if limit else lines:
        output.show(text)
    if goes_on is not None:
        _follow_rows(starts, pages, wanted, goes_on, line)


def _changes(starts: list[tuple[Path, int]], wanted: Wanted, limit: int | None) -> list[tuple[str, str]]:
    """Return what is no row but an event for other programs, with its time; the newest of each trail."""
    fits = _matcher(wanted)
    found: list[tuple[str, str]] = []
    for path, size in starts:
        events = ((record.time, rows.ocsf_change_line(record)) for record in read_backwards(path, size) if fits(record))
        found += islice(((time, text) for time, text in events if text is not None), limit)
    return found


def _follow_rows(
    starts: list[tuple[Path, int]],
    pages: list[Page],
    wanted: Wanted,
    goes_on: Callable[[], bool],
    line: Callable[[Row], str],
) -> None:
    fits = _matcher(wanted)
    live = [LiveRows(wanted) for _ in starts]
    for rows_of, page in zip(live, pages, strict=True):
        for record in page.pending:
            rows_of.feed(record)
    for number, record in _growing(starts, goes_on):
        for row in live[number].feed(record):
            output.show(line(row))
        change = rows.ocsf_change_line(record) if line is rows.ocsf_line and fits(record) else None
        if change is not None:
            output.show(change)


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
        if wanted.event is not None and wanted.event not in (record.event, record.connection):
            return False
        return wanted.host is None or fnmatchcase(record.host or "", wanted.host)

    return matches


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
