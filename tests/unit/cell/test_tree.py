"""Trees of files that belong to the ids of a sandbox."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from sandhold.cell import tree
from sandhold.cell.identity import identity_for
from sandhold.errors import SbxError

if TYPE_CHECKING:
    from pathlib import Path

needs_ids = pytest.mark.skipif(
    identity_for(0).is_single, reason=f"needs root or subordinate ids: {'; '.join(identity_for(0).notes)}"
)


def _archive(path: Path) -> Path:
    """Write an archive as mmdebstrap does: a folder of root's, one of `agent`'s, a set-id program, a device."""
    members = (
        ("./", tarfile.DIRTYPE, 0, 0o755),
        ("./dev/", tarfile.DIRTYPE, 0, 0o755),
        ("./dev/null", tarfile.CHRTYPE, 0, 0o666),
        ("./bin/", tarfile.DIRTYPE, 0, 0o755),
        ("./bin/sudo", tarfile.REGTYPE, 0, 0o4755),
        ("./closed/", tarfile.DIRTYPE, 0, 0o000),
        ("./agent/", tarfile.DIRTYPE, 1000, 0o700),
        ("./agent/file", tarfile.REGTYPE, 1000, 0o600),
        ("./high", tarfile.REGTYPE, 65_534, 0o644),
    )
    with tarfile.open(path, "w") as archive:
        for name, kind, owner, mode in members:
            member = tarfile.TarInfo(name)
            member.type, member.uid, member.gid, member.mode = kind, owner, owner, mode
            archive.addfile(member, io.BytesIO())
    return path


@needs_ids
def test_unpacking_gives_each_file_the_owner_it_has_inside(tmp_path: Path) -> None:
    """No device is made; root's files are not the user's, and `agent`'s files are (root's: are 1000's)."""
    root = tmp_path / "rootfs"
    tree.unpack(_archive(tmp_path / "rootfs.tar"), root)
    try:
        assert list((root / "dev").iterdir()) == []
        identity = identity_for(0)
        maps = identity.outer.users if identity.outer is not None else ()
        outside = {line.inside + step: line.outside + step for line in maps for step in range(line.count)}
        for name, inside in (("bin/sudo", 0), ("agent", 1000), ("high", 65_534)):
            assert (root / name).stat().st_uid == outside.get(inside, inside)
        if os.geteuid() != 0:
            assert (root / "agent").stat().st_uid == os.geteuid()
        assert (root / "bin/sudo").stat().st_mode & 0o7777 == 0o4755
    finally:
        tree.delete_tree(root)
    assert not root.exists()


def test_deleting_follows_no_link(tmp_path: Path) -> None:
    """What a link in a tree points to stays; the tree goes, closed folders too."""
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("still here")
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    (doomed / "link").symlink_to(kept)
    (doomed / "closed").mkdir(mode=0o000)
    tree.delete_tree(doomed)
    assert (kept / "file").read_text() == "still here"
    assert not doomed.exists()


def test_a_folder_that_nobody_may_enter_is_deleted(tmp_path: Path) -> None:
    """An overlay leaves a closed folder behind, and what is in it goes too."""
    closed = tmp_path / "doomed/work"
    (closed / "inner").mkdir(parents=True)
    (closed / "inner/file").write_text("")
    closed.chmod(0o000)
    tree.delete_tree(tmp_path / "doomed")
    assert not (tmp_path / "doomed").exists()


def test_deleting_what_is_gone_is_no_error(tmp_path: Path) -> None:
    """Clean-up after a failure may find nothing."""
    tree.delete_tree(tmp_path / "never")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_archive_is_an_error_in_words(tmp_path: Path) -> None:
    """An archive that cannot be unpacked is not a root file system."""
    (tmp_path / "rootfs.tar").write_bytes(b"not an archive")
    with pytest.raises(SbxError, match="`tar` failed"):
        tree.unpack(tmp_path / "rootfs.tar", tmp_path / "rootfs")


def test_size_counts_what_is_on_disk(tmp_path: Path) -> None:
    """A tree is at least as large as the file in it."""
    (tmp_path / "file").write_bytes(os.urandom(300_000))
    assert 300_000 <= tree.size_of(tmp_path) < 600_000
