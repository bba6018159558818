"""The one SQLite database: sandboxes, local rules, posture and the anchored heads of the audit trails.

Rules:

1. The folder is 0700 and the file 0600 before the first byte is in it, and the file has its name only once it is
   whole: an empty one is a damaged one.
2. Every change is one `BEGIN IMMEDIATE` transaction, durable when it returns (`synchronous=FULL` in WAL mode).
3. The schema has a number (`user_version`); a number above ours is a newer program's and is refused, never guessed at.
4. What cannot be opened, read or understood is an error, never an empty database.
5. A full disk has no room for the memory that readers share in WAL mode. A reader then takes the database for itself,
   which needs none (sqlite.org/wal.html, section 8): what is there can be seen, and a sandbox stopped.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Final

from sandhold.errors import SbxError
from sandhold.store.folders import PRIVATE_FILE, make_private_folder, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

Database = sqlite3.Connection
DatabaseError = sqlite3.Error
DuplicateError = sqlite3.IntegrityError

BUSY_TIMEOUT_S: Final = 10.0  # a writer holds the lock for one small transaction; 50 of them in a row fit many times

_NO_ROOM_TO_SHARE: Final = 4874  # SQLITE_IOERR_SHMSIZE (sqlite.org/rescode.html), which the module does not name
_DAMAGE_HINT: Final = "restore it from a backup, or move it away to begin anew without sandboxes and local rules"

MIGRATIONS: Final = (
    """
    CREATE TABLE sandboxes (
        slot INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        agent TEXT NOT NULL,
        isolation TEXT NOT NULL,
        template TEXT NOT NULL,
        mounts TEXT NOT NULL,
        cpus REAL,
        memory INTEGER,
        pids INTEGER NOT NULL,
        environment TEXT NOT NULL,
        created_at REAL NOT NULL
    ) STRICT;
    CREATE TABLE policy (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        generation INTEGER NOT NULL,
        posture TEXT NOT NULL
    ) STRICT;
    INSERT INTO policy (only, generation, posture) VALUES (1, 1, 'balanced');
    CREATE TABLE rules (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        effect TEXT NOT NULL,
        resource TEXT NOT NULL,
        sandbox TEXT,
        expires_at REAL,
        created_at REAL NOT NULL
    ) STRICT;
    CREATE TABLE heads (
        trail TEXT NOT NULL,
        seq INTEGER NOT NULL,
        hash TEXT NOT NULL,
        PRIMARY KEY (trail, seq, hash)
    ) STRICT;
    """,
    """
    ALTER TABLE sandboxes ADD COLUMN anchor TEXT;
    ALTER TABLE sandboxes ADD COLUMN protected TEXT NOT NULL DEFAULT '[".git/hooks", ".git/config"]';
    """,
    "ALTER TABLE sandboxes ADD COLUMN needs_hardware INTEGER NOT NULL DEFAULT 0 CHECK (needs_hardware IN (0, 1));",
)
"""Schema number n is what the first n of these have made. One that has been released is never changed."""


def open_database(path: Path) -> Database:
    """Open the database for reading and writing, made and brought up to date first; the caller closes it.

    Raises:
        SbxError: when it is another's, newer than this program, corrupt, or held by others for too long.
    """
    with _opening(path):
        if not path.exists():
            make_private_folder(path.parent)
            _create_whole(path)
        database, schema = _connect_whole(path, "rw")
        try:
            if schema < len(MIGRATIONS):
                _migrate(database)
        except BaseException:
            database.close()
            raise
        return database


def read_only(path: Path) -> Database:
    """Open the database for looking only; one that does not exist yet is empty, and is not made.

    Raises:
        SbxError: as `open_database` does.
    """
    with _opening(path):
        if not path.exists():
            return _in_memory()
        database, schema = _connect_whole(path, "ro")
    if schema == len(MIGRATIONS):
        return database
    database.close()
    return open_database(path)


def current(path: str) -> Database | None:
    """Open the database at an absolute path for looking only; None where that takes more than opening it: there is
    none yet, it is of another schema, or something is wrong with it."""
    try:
        database = _connect(path, "ro")
    except sqlite3.Error:
        return None
    try:
        if _user_version(database) == len(MIGRATIONS):
            return database
    except sqlite3.Error:
        pass
    database.close()
    return None


def file_of(statements: Iterable[tuple[str, tuple[bytes | int | None, ...]]]) -> bytes:
    """Return the file of a new database that these statements, each with its values, have made; it is on no disk."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        for statement, values in statements:
            database.execute(statement, values)
        return database.serialize()


@contextmanager
def transaction(database: Database) -> Iterator[None]:
    """Make one change: committed and durable when the `with` ends, undone entirely when it raises.

    Raises:
        SbxError: when other processes held the database for `BUSY_TIMEOUT_S`, or the disk refused.
        DuplicateError: when a value that has to be unique is there already.
    """
    with _explained("the database"):
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
            database.execute("COMMIT")
        finally:
            if database.in_transaction:
                database.execute("ROLLBACK")


@contextmanager
def snapshot(database: Database) -> Iterator[None]:
    """Read as much as is wanted as it was at one moment.

    Raises:
        SbxError: when the database cannot be read.
    """
    if database.in_transaction:
        yield  # a change sees what it has made of things so far
        return
    with _explained("the database"):
        database.execute("BEGIN DEFERRED")
        try:
            yield
        finally:
            if database.in_transaction:
                database.execute("ROLLBACK")


def _create_whole(path: Path) -> None:
    """Make a new database beside its place and give it its name when it is on disk; of several at once, one wins.

    A file that is there already is never opened here: closing any descriptor of a file drops every POSIX lock that
    this process holds on it (fcntl(2)), SQLite's included.
    """
    import uuid  # noqa: PLC0415  once in the life of an installation, and it takes longer than opening a database

    draft = path.with_name(f".{path.name}.{uuid.uuid4()}")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_FILE))
    try:
        with closing(_connect(draft, "rw")) as database:
            _migrate(database)
            database.execute("PRAGMA journal_mode = WAL")
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    sync_folder(path.parent)


def _connect_whole(path: Path, mode: str) -> tuple[Database, int]:
    """Connect to a database of ours and return it with its schema's number, by rule 5 when the disk is full."""
    try:
        return _connect_checked(path, mode)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != _NO_ROOM_TO_SHARE:
            raise
    return _connect_checked(path, "rw", locking="EXCLUSIVE")


def _connect_checked(path: Path, mode: str, *, locking: str = "NORMAL") -> tuple[Database, int]:
    database = _connect(path, mode, locking=locking)
    try:
        return database, _schema(database, path)
    except BaseException:
        database.close()
        raise


def _connect(path: str | Path, mode: str, *, locking: str = "NORMAL") -> Database:
    # As a URI (sqlite.org/uri.html, section 3): three characters would mean something else there.
    escaped = os.path.abspath(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")  # noqa: PTH100  a str
    database = sqlite3.connect(f"file://{escaped}?mode={mode}", uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S)
    try:
        database.execute(f"PRAGMA locking_mode = {locking}")  # before the next ones, which look into the file
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA trusted_schema = OFF")
    except BaseException:
        database.close()
        raise
    return database


def _in_memory() -> Database:
    database = sqlite3.connect(":memory:", isolation_level=None)
    _migrate(database)
    return database


def _migrate(database: Database) -> None:
    """Run what is missing, all of it or nothing."""
    with transaction(database):
        for number, script in enumerate(MIGRATIONS, start=1):
            if number <= _user_version(database):
                continue
            for statement in filter(str.strip, script.split(";")):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {number:d}")


def _schema(database: Database, path: Path) -> int:
    found = _user_version(database)
    if found > len(MIGRATIONS):
        raise SbxError(
            f"`{path}` was written by a newer sbx (schema {found}, this one knows {len(MIGRATIONS)})",
            hint="install the newer version again; an older one could overlook a deny rule",
        )
    if found < 1:
        raise SbxError(f"`{path}` is damaged: it is empty", hint=_DAMAGE_HINT)
    return found


def _user_version(database: Database) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what SQLite says into what a person can act on; a duplicate is for the caller, a misuse is our own bug."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise
    except sqlite3.DatabaseError as error:
        # The primary result code (sqlite.org/rescode.html); a text that is no UTF-8 is an error of the module, without.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise SbxError(f"{name} is held by another sbx command", hint="try again in a moment") from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise SbxError(f"{name} is damaged: {error}", hint=_DAMAGE_HINT) from error
        if code == sqlite3.SQLITE_FULL:
            raise SbxError(f"{name} cannot be changed: its disk is full", hint="make room and try again") from error
        raise SbxError(f"{name} cannot be used: {error}") from error


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    try:
        with _explained(f"`{path}`"):
            yield
    except OSError as error:
        raise SbxError(f"`{path}` cannot be opened: {error.strerror or error}") from error
