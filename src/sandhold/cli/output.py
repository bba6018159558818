"""The one module that prints: data on standard output, talk on standard error, nothing that could drive a terminal.

Text that may come from a sandbox is escaped here once more, whatever its source did: control characters (C0, DEL, C1),
line and paragraph separators and bidirectional marks are shown as escapes (Unicode Standard Annex 9).
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLUMN_GAP: Final = "   "
_UNSHOWN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_COLOURS: Final = {"red": "31", "green": "32", "yellow": "33", "dim": "2", "bold": "1"}


def show(text: str) -> None:
    """Print a line of data."""
    print(text, flush=True)


def show_json(value: object) -> None:
    """Print data as one JSON document in ASCII."""
    print(json.dumps(value, indent=2, ensure_ascii=True), flush=True)


def show_json_line(value: object) -> None:
    """Print data as one line of JSON in ASCII."""
    print(json.dumps(value, ensure_ascii=True, separators=(",", ":")), flush=True)


def say(text: str) -> None:
    """Print a line of talk."""
    print(text, file=sys.stderr, flush=True)


def ask(text: str) -> None:
    """Print a question and leave the cursor behind it."""
    print(safe(text), end="", file=sys.stderr, flush=True)


def hint(text: str) -> None:
    """Print what to type next."""
    say(f"{paint('hint:', 'yellow', sys.stderr)} {text}")


def warn(text: str) -> None:
    """Print a line that somebody should read."""
    say(f"{paint('warning:', 'yellow', sys.stderr)} {text}")


def fail(message: str, hint_text: str | None) -> None:
    """Print why a command ended without doing what it was asked, and what to type next."""
    say(f"{paint('error:', 'red', sys.stderr)} {safe(message, keep_lines=True)}")
    if hint_text is not None:
        say("")
        hint(safe(hint_text, keep_lines=True))


def progress(text: str) -> None:
    """Show a passing line of talk: overwritten by the next on a terminal, a line of its own elsewhere."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{safe(text)[: _columns() - 1]}")
        sys.stderr.flush()
    else:
        say(safe(text))


def end_progress() -> None:
    """Take the passing line away."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header, columns as wide as they need to be, as `docker` does."""
    if header:
        rows = [header, *rows]
    shown = [[safe(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in shown) for column in range(len(shown[0]))] if shown else []
    if shown:
        show("\n".join(COLUMN_GAP.join(map(str.ljust, row, widths)).rstrip() for row in shown))


def width() -> int | None:
    """Return the columns of the terminal that data goes to, None when it goes elsewhere."""
    return _columns() if sys.stdout.isatty() else None


def _columns() -> int:
    import shutil  # noqa: PLC0415  with all it knows of archives, for a terminal only

    return shutil.get_terminal_size().columns


def shortened_start(text: str, columns: int) -> str:
    """Cut the start of a text that is too long for its columns: of a path, the end says more."""
    return text if len(text) <= columns else f"...{text[len(text) + 3 - columns :]}"


def paint(text: str, colour: str, stream: object = None) -> str:
    """Colour text for a terminal; not elsewhere, and never with `NO_COLOR` set (no-color.org)."""
    target = sys.stdout if stream is None else stream
    is_terminal = getattr(target, "isatty", lambda: False)()
    if not is_terminal or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def safe(text: str, *, keep_lines: bool = False) -> str:
    """Escape everything that is not shown as itself: `\\x1b` for the escape character, `\\u202e` for an override."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if keep_lines and character == "\n" else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _UNSHOWN:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def as_text(values: Mapping[str, str]) -> str:
    """Print names and values a line each, the values in one column."""
    longest = max((len(name) for name in values), default=0)
    return "\n".join(f"{name + ':':<{longest + 2}}{safe(value)}" for name, value in values.items())
