"""The database: private, durable, numbered, and never guessed at."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from sandhold.errors import SbxError
from sandhold.store.database import MIGRATIONS, DuplicateError, open_database, read_only, snapshot, transaction
from tests.unit.store.samples import finish, start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandhold.store.database import Database


def test_everything_is_private(tmp_path: Path) -> None:
    """Folders that are made are 0700 and every file of the database is 0600, whatever the umask."""
    path = tmp_path / "state" / "sandhold" / "sandhold.db"
    with closing(open_database(path)) as database, transaction(database):
        database.execute("INSERT INTO heads VALUES ('lab', 1, 'a')")
        files = sorted(path.parent.iterdir())
        assert [file.stat().st_mode & 0o777 for file in files] == [0o600] * len(files)
        assert len(files) == 3  # the database, its log and the log's index
    assert [folder.stat().st_mode & 0o777 for folder in (path.parent, path.parent.parent)] == [0o700, 0o700]


def test_settings(tmp_path: Path) -> None:
    """A connection has foreign keys, a write-ahead log, full synchronisation and a busy timeout."""
    with closing(open_database(tmp_path / "db")) as database:
        names = ("foreign_keys", "journal_mode", "synchronous", "busy_timeout", "user_version")
        found = [database.execute(f"PRAGMA {name}").fetchone()[0] for name in names]
    assert found == [1, "wal", 2, 10_000, len(MIGRATIONS)]


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    """A database of a newer version is refused with what to do, for reading too: it could hold rules we overlook."""
    with closing(open_database(tmp_path / "db")) as database:
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    for opener in (open_database, read_only):
        with pytest.raises(SbxError, match="newer sbx") as caught:
            opener(tmp_path / "db")
        assert caught.value.hint is not None


@pytest.mark.parametrize("opener", [open_database, read_only])
def test_older_schema_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opener: Callable[[Path], Database]
) -> None:
    """A database of an older version is migrated when it is opened, and keeps what is in it."""
    with closing(open_database(tmp_path / "db")) as database, transaction(database):
        database.execute("UPDATE policy SET posture = 'deny-all'")
    newer = (*MIGRATIONS, "CREATE TABLE more (a TEXT) STRICT; ALTER TABLE policy ADD COLUMN more TEXT;")
    monkeypatch.setattr("sandhold.store.database.MIGRATIONS", newer)
    with closing(opener(tmp_path / "db")) as database:
        assert database.execute("SELECT posture, more FROM policy").fetchall() == [("deny-all", None)]
        assert database.execute("PRAGMA user_version").fetchone() == (len(newer),)


def test_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When one statement of a migration fails the database stays at the schema it had."""
    open_database(tmp_path / "db").close()
    with monkeypatch.context() as patch:
        patch.setattr("sandhold.store.database.MIGRATIONS", (*MIGRATIONS, "DROP TABLE rules; DROP TABLE nosuch;"))
        with pytest.raises(SbxError, match="nosuch"):
            open_database(tmp_path / "db")
    with closing(open_database(tmp_path / "db")) as database:
        assert database.execute("SELECT count(*) FROM rules").fetchone() == (0,)


DAMAGED = {
    "text that is no database": b"this is not a database, whatever its name says" * 100,
    "nothing": b"",
    "a header with nothing behind it": b"SQLite format 3\x00" + b"\xff" * 4096,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_file_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    """What cannot be read is an error, never an empty database, and the file is left as it is."""
    path = tmp_path / "db"
    path.write_bytes(content)
    for opener in (open_database, read_only):
        with pytest.raises(SbxError):
            opener(path)
    assert path.read_bytes() == content


def test_folder_in_place_of_file(tmp_path: Path) -> None:
    """A path that is no file is an error in words, not a traceback."""
    (tmp_path / "db").mkdir()
    with pytest.raises(SbxError):
        open_database(tmp_path / "db")


def test_damage_found_later(tmp_path: Path) -> None:
    """Damage that shows only when a page is read is an error in words too."""
    path = tmp_path / "db"
    with closing(open_database(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))
    with closing(open_database(path)) as database, pytest.raises(SbxError, match="damaged"), snapshot(database):
        database.execute("SELECT * FROM policy").fetchall()


def test_read_only_of_nothing(tmp_path: Path) -> None:
    """Looking at a database that does not exist shows an empty one and makes nothing."""
    with closing(read_only(tmp_path / "state" / "db")) as database:
        assert database.execute("SELECT count(*) FROM sandboxes").fetchone() == (0,)
    assert list(tmp_path.iterdir()) == []


def test_read_only_cannot_write(tmp_path: Path) -> None:
    """A connection for looking cannot change anything."""
    open_database(tmp_path / "db").close()
    with closing(read_only(tmp_path / "db")) as database, pytest.raises(SbxError), transaction(database):
        database.execute("UPDATE policy SET posture = 'allow-all'")
    with closing(read_only(tmp_path / "db")) as database:
        assert database.execute("SELECT posture FROM policy").fetchone() == ("balanced",)


def _break_off(database: Database) -> None:
    with transaction(database):
        database.execute("UPDATE policy SET posture = 'allow-all'")
        raise OSError("disk")


def _duplicate(database: Database) -> None:
    with transaction(database):
        database.execute("UPDATE policy SET posture = 'allow-all'")
        database.execute("INSERT INTO policy VALUES (1, 1, 'allow-all')")


def test_transaction_undoes_everything(tmp_path: Path) -> None:
    """What raises inside a transaction undoes all of it, and the connection can be used again."""
    with closing(open_database(tmp_path / "db")) as database:
        with pytest.raises(OSError, match="disk"):
            _break_off(database)
        with pytest.raises(DuplicateError):
            _duplicate(database)
        assert database.execute("SELECT posture FROM policy").fetchone() == ("balanced",)
        with transaction(database):
            database.execute("UPDATE policy SET posture = 'deny-all'")
        assert database.execute("SELECT posture FROM policy").fetchone() == ("deny-all",)


def test_held_database_is_an_error_in_words(tmp_path: Path) -> None:
    """Somebody else's open change makes a second one fail after its timeout, in words."""
    with closing(open_database(tmp_path / "db")) as holder, closing(open_database(tmp_path / "db")) as other:
        other.execute("PRAGMA busy_timeout = 1")
        with transaction(holder), pytest.raises(SbxError, match="held by another"), transaction(other):
            pass


def _open_once(path: Path) -> None:
    open_database(path).close()


def test_many_open_a_new_one_at_once(tmp_path: Path) -> None:
    """Processes that all find no database make one together."""
    path = tmp_path / "state" / "db"
    assert finish(*[start(_open_once, path) for _ in range(20)]) == [0] * 20
    assert [file.name for file in path.parent.iterdir()] == ["db"]
    with closing(open_database(path)) as database:
        assert database.execute("SELECT generation FROM policy").fetchall() == [(1,)]
