"""Sandboxes at a glance say what the whole objects say."""

from __future__ import annotations

from contextlib import closing
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from sandhold.model.sandbox import Isolation, Limits, Mount, Sandbox
from sandhold.store import glances, sandboxes
from sandhold.store.database import open_database

if TYPE_CHECKING:
    from pathlib import Path


def test_a_glance_is_what_the_whole_is(tmp_path: Path) -> None:
    """Names, folders and variables are those that the sandbox was stored with, in the order of creation."""
    folders = (
        Mount(PurePosixPath("/home/dev/naïve project"), is_read_only=False),
        Mount(PurePosixPath("/srv/docs"), is_read_only=True),
    )
    with closing(open_database(tmp_path / "sandhold.db")) as database:
        for name, mounts in (("second", folders), ("first", ())):
            sandbox = Sandbox(
                name=name,
                agent="claude",
                isolation=Isolation.MICROVM,
                template="claude",
                mounts=mounts,
                limits=Limits(None, None, 4096),
                environment=(("A", "1"),),
                slot=0,
                created_at=0.0,
                host_variables=("TOKEN",),
            )
            sandboxes.add(database, sandbox)
        whole = sandboxes.list_all(database)
        lines = glances.list_all(database)
        assert lines == [(each.name, each.agent, each.isolation.value, each.workspace) for each in whole]
        assert [each.workspace for each in lines] == ["/home/dev/naïve project", "/"]
        assert glances.look(database, "third") is None
        assert glances.look(database, "second") == glances.Glance(
            agent="claude",
            isolation="microvm",
            template="claude",
            mounts=(("/home/dev/naïve project", False), ("/srv/docs", True)),
            variables=("A",),
            host_variables=("TOKEN",),
        )
        database.execute("DROP TABLE sandboxes")
        assert glances.look(database, "second") is None
