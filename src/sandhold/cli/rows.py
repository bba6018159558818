"""Rows of the audit trail as lines of text: in columns for people, CSV and OCSF for other programs."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Final

from sandhold.cli import output
from sandhold.model.rule import Effect
from sandhold.store.administration import ocsf_change
from sandhold.store.exports import COLUMNS, csv_cells, ocsf_event
from sandhold.store.summary import RowKind

if TYPE_CHECKING:
    from sandhold.store.records import Record
    from sandhold.store.summary import Row

EFFECT_COLUMNS: Final = 10
HOST_COLUMNS: Final = 28
WIDE: Final = ("TIME", "DECISION", "HOST", "PORT", "STATUS", "METHOD", "PATH", "UP", "DOWN", "SECONDS", "RULE")

_WORDS: Final = {Effect.ALLOW: "ALLOWED", Effect.DENY: "BLOCKED"}


def line(row: Row) -> str:
    """Write the default: decision, host and status in columns."""
    return f"{_word(row, EFFECT_COLUMNS)}{output.safe(_named(row)):<{HOST_COLUMNS}}{_status(row)}"


def wide_line(row: Row) -> str:
    """Write everything on a line of its own, for a trail that is followed."""
    return "  ".join(output.safe(cell) for cell in wide_cells(row))


def wide_cells(row: Row) -> tuple[str, ...]:
    """Return the cells of `WIDE`."""
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


def csv_header() -> str:
    """Name the columns of `csv_line`."""
    return ",".join(COLUMNS)


def csv_line(row: Row) -> str:
    """Write a row as RFC 4180 has it, without the line's end."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([output.safe(cell) for cell in csv_cells(row)])
    return buffer.getvalue()


def ocsf_line(row: Row) -> str:
    """Write a row as an OCSF event on one line of JSON in ASCII."""
    return json.dumps(ocsf_event(row), ensure_ascii=True, separators=(",", ":"))


def ocsf_change_line(record: Record) -> str | None:
    """Write a record that no row is made of as an OCSF event; None for every other."""
    event = ocsf_change(record)
    return None if event is None else json.dumps(event, ensure_ascii=True, separators=(",", ":"))


def _named(row: Row) -> str:
    if row.kind is RowKind.REPEATED:
        return f"{row.host} (x{row.attempts})"
    return f"{row.host} ({row.protocol})" if row.kind is RowKind.DROPPED else row.host


def _word(row: Row, columns: int) -> str:
    word = _WORDS[row.effect]
    return output.paint(word, "green" if row.effect is Effect.ALLOW else "red") + " " * (columns - len(word))


def _status(row: Row) -> str:
    return str(row.status) if row.status is not None else "-"
