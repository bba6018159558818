"""`sbx exec` in its plainest form: the same request, by fewer modules."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec
import pytest

from sandhold.cli import shortcut
from sandhold.model.sandbox import Isolation, Limits, Mount, Sandbox
from sandhold.paths import Paths
from sandhold.session import control, presence
from sandhold.store import sandboxes
from sandhold.store.database import open_database
from tests.installation import SOURCE

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWER_TIMEOUT_S = 60.0
LAB = Sandbox(
    name="lab",
    agent="shell",
    isolation=Isolation.NAMESPACES,
    template="debian",
    mounts=(Mount(PurePosixPath("/home/dev/project"), is_read_only=False),),
    limits=Limits(None, None, 4096),
    environment=(("KEPT", "value"),),
    slot=0,
    created_at=0.0,
    host_variables=("TOKEN",),
)
BOTH_WAYS = (
    "import sys; sys.argv[0] = 'sbx'\nfrom sandhold.{way} import main\nsys.exit(main())"  # the module that is run
)

PLAIN = {
    "a command": ("lab", "true"),
    "arguments that look like options of ours": ("lab", "sh", "-u", "root", "--help"),
    "words after `--`": ("lab", "--", "sh", "-c", "exit 3"),
    "as root in a folder": ("-u", "root", "-w", "/tmp/a b", "lab", "id"),
    "long options": ("--interactive", "--user", "agent", "--workdir", "/", "--env", "A=1", "lab", "env"),
    "a variable that is given twice": ("-e", "A=1", "-e", "B=x=y", "-e", "A=", "lab", "env"),
    "a variable that the sandbox gets from the host": ("-e", "TOKEN=mine", "lab", "env"),
    "bytes that are no UTF-8, quotes and lines": ("lab", "printf", b'\xff"\n\\', "naïve"),
}

NOT_PLAIN = {
    "nothing": (),
    "another command": ("ls",),
    "no command inside": ("exec", "lab"),
    "nothing after `--`": ("exec", "lab", "--"),
    "help": ("exec", "--help", "lab", "true"),
    "a terminal": ("exec", "-it", "lab", "sh"),
    "a user by number": ("exec", "-u", "0", "lab", "id"),
    "a folder that is relative": ("exec", "-w", "tmp", "lab", "pwd"),
    "a variable by its name alone": ("exec", "-e", "TOKEN", "lab", "env"),
    "a variable without a name": ("exec", "-e", "=x", "lab", "env"),
    "an option and its value in one": ("exec", "--user=root", "lab", "id"),
    "an option that is none": ("exec", "--fast", "lab", "id"),
    "`--` before the name": ("exec", "--", "lab", "id"),
    "a name that leads elsewhere": ("exec", "../lab", "id"),
    "a name that is too long": ("exec", "a" * 64, "id"),
    "an option where the name should be": ("exec", "-i", "-u", "root"),
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with one sandbox in its database, whose session is this test."""
    paths = Paths.from_environment({"HOME": str(tmp_path)})
    with closing(open_database(paths.database)) as database:
        sandboxes.add(database, LAB)
    paths.sandbox("lab").mkdir(mode=0o700, parents=True)
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    """What commands of these tests run with."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(SOURCE), "TOKEN": "secret"}


@contextmanager
def session(home: Path, heard: list[control.Request]) -> Iterator[None]:
    """Be the session of the sandbox for one command: keep its request, let it end with status 7."""
    folder = Paths.from_environment({"HOME": str(home)}).sandbox("lab")
    with presence.hold(folder), control.Listener(folder) as listener:
        turn = threading.Thread(target=_answer_once, args=(listener, heard))
        turn.start()
        yield
        turn.join(ANSWER_TIMEOUT_S)
        assert not turn.is_alive()


def _answer_once(listener: control.Listener, heard: list[control.Request]) -> None:
    with socket.socket(fileno=os.dup(listener.fileno())) as waiting:
        waiting.settimeout(ANSWER_TIMEOUT_S)
        connection, _ = waiting.accept()
    with control.Channel(connection) as channel:
        request, descriptors = channel.receive_request()
        heard.append(request)
        channel.send(control.Started(1))
        os.write(descriptors[1], b"out")
        os.write(descriptors[2], b"err")
        for descriptor in descriptors:
            os.close(descriptor)
        channel.send(control.Ended(7))


def exec_by(way: str, home: Path, words: tuple[str | bytes, ...]) -> tuple[int, bytes, bytes]:
    """Type `sbx exec WORDS`, which is to go one of the two ways."""
    done = subprocess.run(
        [sys.executable, "-c", BOTH_WAYS.format(way=way), "exec", *words],
        env=environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=ANSWER_TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("words", PLAIN.values(), ids=PLAIN)
def test_the_session_is_asked_for_the_same(home: Path, words: tuple[str | bytes, ...]) -> None:
    """A plain `exec` asks the session for what the long way asks for, and ends as it does."""
    assert shortcut.plain_form(("exec", *map(os.fsdecode, words))) is not None
    heard: list[control.Request] = []
    for way in ("__main__", "cli.main"):
        with session(home, heard):
            assert exec_by(way, home, words) == (7, b"out", b"err")
    short, long = heard
    assert short == long


@pytest.mark.parametrize("words", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_not_plain_goes_the_long_way(words: tuple[str, ...]) -> None:
    """Whatever needs another look, or another word, is not touched."""
    assert shortcut.plain_form(words) is None


def test_nothing_is_asked_when_something_is_missing(home: Path) -> None:
    """Without a session, a database, a sandbox or a variable the long way has the words to say so."""
    known = environment(home)
    heard: list[control.Request] = []
    for words, variables in (
        (("exec", "lab", "true"), {**known, "HOME": str(home / "nobody")}),
        (("exec", "lab", "true"), {**known, "HOME": "relative"}),
        (("exec", "other", "true"), known),
        (("exec", "lab", "true"), {name: value for name, value in known.items() if name != "TOKEN"}),
        (("exec", "lab", "true"), {**known, "_SBX_COMPLETE": "bash_complete"}),
    ):
        assert shortcut.take(words, variables) is None, (words, variables)
    assert shortcut.take(("exec", "lab", "true"), known) is None  # no session listens
    with session(home, heard):
        assert exec_by("__main__", home, ("lab", "true"))[0] == 7
    assert len(heard) == 1


def test_a_database_of_another_schema(home: Path) -> None:
    """A newer program's database is not read."""
    path = Paths.from_environment({"HOME": str(home)}).database
    plain = shortcut.plain_form(("exec", "lab", "true"))
    assert plain is not None
    assert shortcut.request_for(plain, str(path), environment(home)) is not None
    with closing(open_database(path)) as database:
        database.execute("PRAGMA user_version = 999")
    assert shortcut.request_for(plain, str(path), environment(home)) is None
    path.write_bytes(b"no database at all" * 100)
    assert shortcut.request_for(plain, str(path), environment(home)) is None


def test_the_request_is_one(home: Path) -> None:
    """What is sent is a whole request, read as the session reads it."""
    plain = shortcut.plain_form(("exec", "-e", "A=1", "lab", "true"))
    assert plain is not None
    sent = shortcut.request_for(plain, str(Paths.from_environment({"HOME": str(home)}).database), {"TOKEN": "t"})
    assert sent is not None
    assert msgspec.json.decode(sent, type=control.Request) == control.Start(
        ("true",), (), (("TOKEN", "t"), ("A", "1")), "agent", None, wants_terminal=False
    )


def test_it_needs_few_modules() -> None:
    """The short way leaves out what takes most of a start: the command line's own library, and making classes."""
    program = "import sys, sandhold.cli.shortcut, sandhold.session.terminals.piped as _; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.append({str(SOURCE)!r}); {program}"],
        capture_output=True,
        text=True,
        timeout=ANSWER_TIMEOUT_S,
        check=True,
    )
    assert {"click", "msgspec", "dataclasses", "inspect", "pathlib", "uuid"} & set(done.stdout.split()) == set()


FOLDERS = {
    "a folder of its own": {"HOME": "/home/dev", "XDG_STATE_HOME": "/srv/state"},
    "a relative folder is ignored": {"HOME": "/home/dev", "XDG_STATE_HOME": "state"},
    "the home": {"HOME": "/home/dev"},
}


@pytest.mark.parametrize("variables", FOLDERS.values(), ids=FOLDERS)
def test_the_folder_is_the_same(variables: dict[str, str]) -> None:
    """Both ways find the sandboxes in the same folder."""
    found = shortcut.state_folder(variables)
    assert found is not None
    assert Path(found) == Paths.from_environment(variables).state
