"""`sbx cp`, both ways, against a sandbox that does its worst."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.installation import Installation


@pytest.fixture(scope="module")
def lab(module_sbx: Installation, module_project: Path) -> Installation:
    """Start a sandbox `lab` that stays."""
    if os.geteuid() == 0:
        os.chown(module_project, 1000, 1000)
    module_sbx.ok("create", "--template", "host", "--name", "lab", "shell", ".", folder=module_project)
    module_sbx.ok("run", "-d", "lab")
    return module_sbx


def test_there_and_back(lab: Installation) -> None:
    """A folder goes in and comes out the same, into a folder that is there and as a new one."""
    source = lab.home / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "data").write_bytes(os.urandom(200_000))
    (source / "link").symlink_to("sub/data")
    lab.ok("cp", str(source), "lab:/home/agent")
    lab.ok("cp", str(source), "lab:/home/agent/renamed")
    assert lab.ok("exec", "lab", "stat", "-c", "%U", "/home/agent/source/sub/data") == "agent\n"
    for path, name in (("/home/agent/source", "back"), ("/home/agent/renamed", "again")):
        lab.ok("cp", f"lab:{path}", str(lab.home / name))
        assert (lab.home / name / "link").read_bytes() == (source / "sub" / "data").read_bytes()
    (lab.home / "there").mkdir()
    lab.ok("cp", "lab:/home/agent/source/sub/data", str(lab.home / "there"))
    assert (lab.home / "there" / "data").stat().st_size == 200_000


def test_links_that_the_sandbox_left(lab: Installation, module_project: Path) -> None:
    """In a folder that the sandbox sees no link is followed, to read or to write; the user's own are, elsewhere."""
    mine = lab.home / "mine"
    mine.mkdir()
    (mine / "key").write_text("secret")
    lab.ok("exec", "lab", "ln", "-s", str(mine), f"{module_project}/out")
    lab.ok("exec", "lab", "ln", "-s", f"{mine}/key", f"{module_project}/key")
    assert lab("cp", f"{module_project}/out/key", "lab:/home/agent/stolen").status == 1
    assert lab("cp", "lab:/etc/passwd", f"{module_project}/out/planted").status == 1
    assert lab("cp", "lab:/etc/passwd", f"{module_project}/out").status == 1
    lab.ok("cp", f"{module_project}/key", "lab:/home/agent/asalink")
    assert lab("exec", "lab", "cat", "/home/agent/stolen", "/home/agent/asalink").out == ""
    assert lab("cp", "lab:/etc/passwd", f"{module_project}/key").status == 1
    assert ((mine / "key").read_text(), sorted(path.name for path in mine.iterdir())) == ("secret", ["key"])
    (lab.home / "alias").symlink_to(mine)
    lab.ok("cp", "lab:/etc/passwd", str(lab.home / "alias"))
    assert "root" in (mine / "passwd").read_text()


def test_a_tar_of_its_own(lab: Installation) -> None:
    """A sandbox that answers with an archive of its own making writes nothing but what was asked for."""
    script = r"""mkdir -p /home/agent/evil && cd /home/agent && cat > evil/tar <<'END'
#!/usr/bin/python3
import io, sys, tarfile
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as made:
    for name in ("../planted", "/planted", "x"):
        info = tarfile.TarInfo(name); info.size = 4
        made.addfile(info, io.BytesIO(b"evil"))
END
chmod +x evil/tar; sudo -n mkdir -p /usr/local/bin && sudo -n cp evil/tar /usr/local/bin/tar"""
    lab.ok("exec", "lab", "bash", "-c", script)
    place = lab.home / "place"
    place.mkdir()
    try:
        done = lab("cp", "lab:/home/agent/evil", str(place))
        assert (done.status, "not of what was asked for" in done.err) == (1, True)
        assert list(place.iterdir()) == []
        assert not (lab.home / "planted").exists()
    finally:
        lab.ok("exec", "lab", "sudo", "-n", "rm", "/usr/local/bin/tar")


WRONG = {
    "nothing there": (("lab:/nosuch", "."), 1, "No such file"),
    "no folder to copy into": (("/etc/hostname", "lab:/nosuch/x"), 1, "No such file"),
    "not allowed inside": (("/etc/hostname", "lab:/etc/planted"), 1, "Permission denied"),
    "the whole root": (("lab:/", "."), 1, "whole root"),
    "both on the host": (("/etc/hostname", "."), 2, "NAME:PATH"),
    "both in sandboxes": (("lab:a", "lab:b"), 2, "NAME:PATH"),
    "an unknown sandbox": (("lap:a", "."), 1, "did you mean `lab`?"),
    "nothing on the host": (("/nosuch/file", "lab:."), 1, "No such file"),
}


@pytest.mark.parametrize(("words", "status", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_copied(lab: Installation, words: tuple[str, ...], status: int, said: str) -> None:
    """What cannot be copied is an error that says why."""
    done = lab("cp", *words)
    assert (done.status, said in done.err) == (status, True), done.err


def test_a_stopped_sandbox(lab: Installation) -> None:
    """A stopped sandbox is started for as long as the copy lasts."""
    lab.ok("stop", "lab")
    (lab.home / "note").write_text("hello")
    lab.ok("cp", str(lab.home / "note"), "lab:/home/agent/note")
    assert lab.ok("exec", "lab", "cat", "/home/agent/note") == "hello"
