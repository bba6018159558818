"""`sbx exec` and `sbx run` in their plainest form: the same request, and the same words, by fewer modules."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec
import pytest

from sandhold.cli import plain_words, shortcut
from sandhold.errors import SbxError
from sandhold.model.sandbox import Isolation, Limits, Mount, Sandbox, Status
from sandhold.paths import Paths
from sandhold.session import control, launching, presence
from sandhold.session.ends import leave_word
from sandhold.store import sandboxes
from sandhold.store.database import open_database
from tests.installation import SOURCE

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWER_TIMEOUT_S = 60.0
BOTH_WAYS = (
    "import sys; sys.argv[0] = 'sbx'\nfrom sandhold.{way} import main\nsys.exit(main())"  # the module that is run
)
WAYS = ("__main__", "cli.main")

INTERRUPTED = """
import sys
sys.argv[0] = "sbx"
class Finder:
    def find_spec(name, *_):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder)
from sandhold.__main__ import main
main()
"""

COMMANDS = {
    "a command": ("lab", "true"),
    "arguments that look like options of ours": ("lab", "sh", "-u", "root", "--help"),
    "words after `--`": ("lab", "--", "sh", "-c", "exit 3"),
    "as root in a folder": ("-u", "root", "-w", "/tmp/a b", "lab", "id"),
    "long options": ("--interactive", "--user", "agent", "--workdir", "/", "--env", "A=1", "lab", "env"),
    "a variable that is given twice": ("-e", "A=1", "-e", "B=x=y", "-e", "A=", "lab", "env"),
    "a variable that the sandbox gets from the host": ("-e", "TOKEN=mine", "lab", "env"),
    "bytes that are no UTF-8, quotes and lines": ("lab", "printf", b'\xff"\n\\', "naïve"),
}

RUNS = {
    "a sandbox": ("lab",),
    "words for its agent": ("lab", "--", "-c", "exit 3", "--", b"\xff"),
    "no words after `--`": ("lab", "--"),
    "an agent in its folder": ("shell",),
    "nothing": (),
    "nothing but words for the agent": ("--", "-i"),
    "an agent that has its key from the host": ("wise",),
    "an agent that signed in inside": ("signed-in",),
    "an agent that has no key": ("keyless", "--", "-p"),
    "a sandbox on a branch that cannot be read": ("branched",),
}

GOES_THE_SHORT_WAY = tuple(RUNS)[:-2]

NOT_PLAIN = {
    "nothing": (),
    "another command": ("ls",),
    "no command inside": ("exec", "lab"),
    "nothing after `--`": ("exec", "lab", "--"),
    "help": ("exec", "--help", "lab", "true"),
    "a terminal for a command": ("exec", "-it", "lab", "sh"),
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
    "a folder": ("run", "lab", "."),
    "a folder where the name should be": ("run", "./lab"),
    "an option of run": ("run", "-d", "lab"),
    "an option behind the name": ("run", "lab", "--rm"),
    "help on run": ("run", "--help"),
}


def _sandbox(name: str, agent: str, folder: Path, *host_variables: str) -> Sandbox:
    return Sandbox(
        name=name,
        agent=agent,
        isolation=Isolation.NAMESPACES,
        template="debian",
        mounts=(Mount(PurePosixPath(folder), is_read_only=False),),
        limits=Limits(None, None, 4096),
        environment=(("KEPT", "value"),),
        slot=0,
        created_at=0.0,
        host_variables=host_variables,
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with sandboxes in its database, whose session is this test."""
    paths = Paths.from_environment({"HOME": str(tmp_path)})
    project = tmp_path / "project"
    project.mkdir()
    with closing(open_database(paths.database)) as database:
        for sandbox in (
            _sandbox("lab", "shell", project, "TOKEN"),
            _sandbox("shell-project", "shell", project),
            _sandbox("wise", "claude", project, "ANTHROPIC_API_KEY"),
            _sandbox("signed-in", "claude", project),
            _sandbox("keyless", "claude", project),
            _sandbox("branched", "shell", project),
            replace(_sandbox("unready", "shell", project), template="gone"),
        ):
            sandboxes.add(database, sandbox)
            paths.sandbox(sandbox.name).mkdir(mode=0o700, parents=True)
    login = paths.sandbox("signed-in") / "layer/root.upper/home/agent/.claude/.credentials.json"
    login.parent.mkdir(parents=True)
    login.touch()
    record = paths.data / "branches" / "branched" / "branch.json"
    record.parent.mkdir(parents=True)
    record.write_text("{")
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    """What commands of these tests run with."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": str(SOURCE),
        "TERM": "xterm",
        "TOKEN": "secret",
        "ANTHROPIC_API_KEY": "key",
    }


@dataclass(frozen=True, slots=True)
class Answering:
    """How a session of these tests behaves. It says that it `stays`, or ends once somebody asks it that. What is
    started ends with status 7, unless the session `hangs_up` before or after it `has_started`."""

    stays: bool = True
    has_started: bool = True
    hangs_up: bool = False


def _answer(answering: Answering, channel: control.Channel, heard: list[control.Request]) -> None:
    request, descriptors = channel.receive_request()
    heard.append(request)
    match request:
        case control.Ask():
            channel.send(control.State("id", 1, 0, is_kept=False, notes=(), stays=answering.stays))
        case control.Start() if answering.has_started:
            if request.wants_terminal:
                master, slave = pty.openpty()
                channel.send(control.Started(1, b"before"), [master])
                descriptors += [master, slave]
                os.write(slave, b"out")
            else:
                channel.send(control.Started(1))
                os.write(descriptors[1], b"out")
                os.write(descriptors[2], b"err")
            if not answering.hangs_up:
                channel.send(control.Ended(7))
        case control.Start():
            assert answering.hangs_up
    for descriptor in descriptors:
        os.close(descriptor)


@contextmanager
def session(home: Path, name: str, heard: list[control.Request], answering: Answering) -> Iterator[None]:
    """Be the session of a sandbox: keep what is asked of it, and answer."""
    folder = Paths.from_environment({"HOME": str(home)}).sandbox(name)
    reader, writer = os.pipe()

    def serve() -> None:
        with presence.hold(folder), control.Listener(folder) as listener:
            while not _is_readable(reader, listener):
                channel = listener.accept()
                assert channel is not None
                with channel:
                    _answer(answering, channel, heard)
                if isinstance(heard[-1], control.Ask) and not answering.stays:
                    break

    turn = threading.Thread(target=serve)
    turn.start()
    try:
        yield
    finally:
        os.close(writer)
        turn.join(ANSWER_TIMEOUT_S)
        os.close(reader)
        assert not turn.is_alive()


def _is_readable(done: int, listener: control.Listener) -> bool:
    """Wait for a connection, or for the end."""
    ready, _, _ = select.select([listener.fileno(), done], [], [], ANSWER_TIMEOUT_S)
    return done in ready


def typed(way: str, home: Path, words: tuple[str | bytes, ...]) -> tuple[int, bytes, bytes]:
    """Type `sbx WORDS`, which is to go one of the two ways, in the project."""
    done = subprocess.run(
        [sys.executable, "-c", BOTH_WAYS.format(way=way), *words],
        env=environment(home),
        cwd=home / "project",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=ANSWER_TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def plain(*words: str | bytes) -> plain_words.Plain:
    """Read words that are plain."""
    found = plain_words.read(tuple(map(os.fsdecode, words)))
    assert found is not None
    return found


def folders(home: Path) -> shortcut.Folders:
    """The folders of a home."""
    found = shortcut.folders_of({"HOME": str(home)})
    assert found is not None
    return found


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_session_is_asked_for_the_same_command(home: Path, words: tuple[str | bytes, ...]) -> None:
    """A plain `exec` asks the session for what the long way asks for, and ends as it does."""
    assert shortcut.asked_for(plain("exec", *words), folders(home), environment(home)) is not None
    heard: list[control.Request] = []
    for way in WAYS:
        with session(home, "lab", heard, Answering()):
            assert typed(way, home, ("exec", *words)) == (7, b"out", b"err")
    short, long = heard
    assert short == long


@pytest.mark.parametrize(
    "answering", [Answering(), Answering(stays=False)], ids=["the session stays", "the session ends"]
)
@pytest.mark.parametrize(("case", "words"), RUNS.items(), ids=RUNS)
def test_a_session_is_asked_for_the_same_agent(
    home: Path, monkeypatch: pytest.MonkeyPatch, case: str, words: tuple[str | bytes, ...], answering: Answering
) -> None:
    """A plain `run` asks the session for what the long way asks for, says the same words and ends as it does."""
    name = os.fsdecode(words[0]) if words and words[0] not in ("--", "shell") else "shell-project"
    monkeypatch.chdir(home / "project")
    asked = shortcut.asked_for(plain("run", *words), folders(home), environment(home))
    assert (asked is not None) == (case in GOES_THE_SHORT_WAY or name == "branched")
    heard: list[control.Request] = []
    ends = []
    for way in WAYS:
        with session(home, name, heard, answering):
            ends.append(typed(way, home, ("run", *words)))
    assert ends[0] == ends[1]
    assert ends[0][:2] == ((1 if name == "branched" else 7), b"out")
    assert heard[: len(heard) // 2] == heard[len(heard) // 2 :]
    assert [type(each) for each in heard] == [control.Start, control.Ask] * 2


def at_terminal(way: str, home: Path, words: tuple[str, ...]) -> tuple[int, bytes, bool]:
    """Type `sbx WORDS` at a terminal of 40 by 100; returns the status, what was shown, and whether the terminal has the
    settings that it had."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    before = termios.tcgetattr(slave)
    with subprocess.Popen(
        [sys.executable, "-c", BOTH_WAYS.format(way=way), *words],
        env=environment(home),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    ) as process:
        status = process.wait(ANSWER_TIMEOUT_S)
    is_put_back = termios.tcgetattr(slave) == before
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: nobody has the other end any more (pty(7))
        while data := os.read(master, 65536):
            shown += data
    os.close(master)
    return status, shown, is_put_back


BEHAVIOURS = {
    "it ends": (Answering(), 7),
    "it ends, and the session with it": (Answering(stays=False), 7),
    "the session hangs up while it runs": (Answering(stays=False, hangs_up=True), 125),
    "the session takes the request and hangs up": (Answering(stays=False, has_started=False, hangs_up=True), 125),
}


@pytest.mark.parametrize(("answering", "expected"), BEHAVIOURS.values(), ids=BEHAVIOURS)
def test_a_terminal_is_handled_alike(home: Path, answering: Answering, expected: int) -> None:
    """At a terminal both ways ask for one of its size, show the same, and put the settings back."""
    heard: list[control.Request] = []
    leave_word(Paths.from_environment({"HOME": str(home)}).sandbox("lab"), "its egress process ended")
    ends = []
    for way in WAYS:
        with session(home, "lab", heard, answering):
            ends.append(at_terminal(way, home, ("run", "lab")))
    assert ends[0] == ends[1]
    status, shown, is_put_back = ends[0]
    assert (status, is_put_back) == (expected, True)
    assert (b"beforeout" in shown) == answering.has_started
    assert (b"the sandbox ended by itself: its egress process ended" in shown) == answering.hangs_up
    assert heard[: len(heard) // 2] == heard[len(heard) // 2 :]
    start = heard[0]
    assert isinstance(start, control.Start)
    assert (start.wants_terminal, start.rows, start.columns) == (True, 40, 100)
    assert start.environment == (("TERM", "xterm"), ("TOKEN", "secret"))


@pytest.mark.parametrize("words", [("exec", "lab", "true"), ("run", "lab")], ids=["exec", "run"])
def test_a_command_is_asked_for_once(home: Path, words: tuple[str, ...]) -> None:
    """A session that took the request and went away may have started the command: neither way asks for it again."""
    for way in WAYS:
        heard: list[control.Request] = []
        with session(home, "lab", heard, Answering(has_started=False, hangs_up=True)):
            status, out, err = typed(way, home, words)
        assert sum(isinstance(each, control.Start) for each in heard) == 1
        assert (status, out, err) == (125, b"", b"error: the sandbox was stopped\n")


@pytest.mark.parametrize("module", ["sandhold.session.packets", "click"])
def test_a_ctrl_c_while_modules_are_loaded(home: Path, module: str) -> None:
    """However early a command is interrupted, it ends as one that was, without a word."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(module=module), "run", "other"],
        env=environment(home),
        capture_output=True,
        check=False,
        timeout=ANSWER_TIMEOUT_S,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize("words", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_not_plain_goes_the_long_way(words: tuple[str, ...]) -> None:
    """Whatever needs another look, or another word, is not touched."""
    assert plain_words.read(words) is None


def test_nothing_is_asked_when_something_is_missing(home: Path) -> None:
    """Without a session, a database, a sandbox or a variable the long way has the words to say so."""
    known = environment(home)
    for words, variables in (
        (("exec", "lab", "true"), {**known, "HOME": str(home / "nobody")}),
        (("exec", "lab", "true"), {**known, "HOME": "relative"}),
        (("exec", "other", "true"), known),
        (("exec", "lab", "true"), {name: value for name, value in known.items() if name != "TOKEN"}),
        (("exec", "lab", "true"), {**known, "_SBX_COMPLETE": "bash_complete"}),
        (("run", "lab"), {name: value for name, value in known.items() if name != "TOKEN"}),
        (("run", "other"), known),
    ):
        assert shortcut.take(words, variables) is None, (words, variables)


@pytest.mark.parametrize("words", [("exec", "unready", "true"), ("run", "unready")], ids=["exec", "run"])
def test_a_session_that_is_missing_is_begun(home: Path, words: tuple[str, ...]) -> None:
    """Where nothing but the session is missing it is begun; one that does not start changes no word of the long way."""
    begun = shortcut.take(words, environment(home))
    assert isinstance(begun, launching.Begun)
    with pytest.raises(SbxError, match="no template is called `gone`"):
        begun.wait()
    folder = Paths.from_environment({"HOME": str(home)}).sandbox("unready")
    ends = []
    for way in WAYS:
        ends.append(typed(way, home, words))
        said = (folder / "session.log").read_text()
        assert (presence.look(folder).status, said.count("`gone`")) == (Status.STOPPED, 2), "none is left on its way"
    assert ends[0] == ends[1]
    assert ends[0][:2] == (1, b"")
    assert b"no template is called `gone`" in ends[0][2]


LEFT = {"a session that was killed": "session.json", "a word of an end that nobody asked for": "last-words"}


@pytest.mark.parametrize("name", LEFT.values(), ids=LEFT)
def test_what_was_left_is_the_long_ways(home: Path, name: str) -> None:
    """Where something is to be said or put in order before a start, the long way starts the session."""
    (Paths.from_environment({"HOME": str(home)}).sandbox("lab") / name).write_text("x")
    assert shortcut.take(("run", "lab"), environment(home)) is None


def test_a_machine_is_the_long_ways(home: Path) -> None:
    """What a machine boots from may have to be made first."""
    with closing(open_database(Paths.from_environment({"HOME": str(home)}).database)) as database:
        lab = sandboxes.get(database, "lab")
        sandboxes.add(database, replace(lab, name="machine", isolation=Isolation.MICROVM, slot=0))
    assert shortcut.take(("run", "machine"), environment(home)) is None


@pytest.mark.parametrize("name", ["shell", "codex", "other"])
def test_an_agent_without_a_sandbox_in_this_folder(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The sandbox of another folder, or of another agent, is not taken for the one that is meant."""
    monkeypatch.chdir(home)
    assert shortcut.asked_for(plain("run", name), folders(home), environment(home)) is None
    elsewhere = home / "elsewhere" / "project"
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    assert shortcut.asked_for(plain("run", name), folders(home), environment(home)) is None


def test_a_users_own_agent_is_looked_at_closely(home: Path) -> None:
    """An agent's file that its user wrote can have mistakes in it, which only the long way finds."""
    own = Paths.from_environment({"HOME": str(home)}).agents / "shell.toml"
    assert shortcut.asked_for(plain("run", "lab"), folders(home), environment(home)) is not None
    own.parent.mkdir(parents=True)
    own.write_text("command = 7\n")
    assert shortcut.asked_for(plain("run", "lab"), folders(home), environment(home)) is None


def test_a_database_of_another_schema(home: Path) -> None:
    """A newer program's database is not read."""
    path = Paths.from_environment({"HOME": str(home)}).database
    words = plain("exec", "lab", "true")
    assert shortcut.asked_for(words, folders(home), environment(home)) is not None
    with closing(open_database(path)) as database:
        database.execute("PRAGMA user_version = 999")
    assert shortcut.asked_for(words, folders(home), environment(home)) is None
    path.write_bytes(b"no database at all" * 100)
    assert shortcut.asked_for(words, folders(home), environment(home)) is None


def test_the_request_is_one(home: Path) -> None:
    """What is sent is a whole request, read as the session reads it."""
    asked = shortcut.asked_for(plain("exec", "-e", "A=1", "lab", "true"), folders(home), {"TOKEN": "t"})
    assert asked is not None
    assert msgspec.json.decode(asked.request, type=control.Request) == control.Start(
        ("true",), (), (("TOKEN", "t"), ("A", "1")), "agent", None, wants_terminal=False
    )


SHORT_WAYS = {
    "a command": "sandhold.cli.shortcut, sandhold.cli.outcomes, sandhold.session.terminals.piped",
    "an agent": "sandhold.cli.parting, sandhold.agents.shipped, sandhold.session.furnish.login",
    "a terminal": "sandhold.session.terminals.terminal",
}


@pytest.mark.parametrize("modules", SHORT_WAYS.values(), ids=SHORT_WAYS)
def test_it_needs_few_modules(modules: str) -> None:
    """The short way leaves out what takes most of a start: the command line's own library, and making classes."""
    program = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.append({str(SOURCE)!r}); {program}"],
        capture_output=True,
        text=True,
        timeout=ANSWER_TIMEOUT_S,
        check=True,
    )
    assert {"click", "msgspec", "dataclasses", "inspect", "pathlib", "uuid"} & set(done.stdout.split()) == set()


FOLDERS = {
    "folders of its own": {
        "HOME": "/home/dev",
        "XDG_STATE_HOME": "/srv/state",
        "XDG_DATA_HOME": "/srv/data",
        "XDG_CONFIG_HOME": "/srv/config",
    },
    "relative folders are ignored": {"HOME": "/home/dev", "XDG_STATE_HOME": "state", "XDG_DATA_HOME": "data"},
    "the home": {"HOME": "/home/dev"},
}


@pytest.mark.parametrize("variables", FOLDERS.values(), ids=FOLDERS)
def test_the_folders_are_the_same(variables: dict[str, str]) -> None:
    """Both ways find everything in the same folders."""
    found = shortcut.folders_of(variables)
    assert found is not None
    paths = Paths.from_environment(variables)
    assert tuple(map(Path, found)) == (paths.state, paths.data, paths.config)
    assert Path(found.sandbox("lab")) == paths.sandbox("lab")
