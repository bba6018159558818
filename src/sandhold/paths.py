"""Where sandhold keeps things on the host; none of it is ever visible inside a sandbox.

Follows the XDG Base Directory specification: state (database, audit trail, authority, sandboxes), data (templates) and
configuration (the user's own agents).
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

APPLICATION = "sandhold"
CERTIFICATE_FILE = "certificate.pem"  # of the authority, in its folder
SHIPPED = Path(__file__).parent  # data that comes with the program lies beside the modules that read it


@dataclass(frozen=True, slots=True)
class Paths:
    """The three folders everything lives under."""

    state: Path
    data: Path
    config: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Paths:
        """Read `XDG_STATE_HOME`, `XDG_DATA_HOME`, `XDG_CONFIG_HOME` and `HOME`; relative values are ignored, as the
        specification demands, and the user's home is asked of the host when `HOME` does not say."""
        home = Path(environ.get("HOME", ""))
        if not home.is_absolute():
            home = Path(pwd.getpwuid(os.geteuid()).pw_dir)

        def folder(variable: str, default: str) -> Path:
            value = environ.get(variable, "")
            return (Path(value) if value.startswith("/") else home / default) / APPLICATION

        return cls(
            state=folder("XDG_STATE_HOME", ".local/state"),
            data=folder("XDG_DATA_HOME", ".local/share"),
            config=folder("XDG_CONFIG_HOME", ".config"),
        )

    @property
    def database(self) -> Path:
        """The SQLite database of sandboxes and local rules."""
        return self.state / "sandhold.db"

    @property
    def trails(self) -> Path:
        """The folder of audit trails: one append-only file per sandbox, kept when the sandbox is deleted."""
        return self.state / "audit"

    @property
    def host_trail(self) -> Path:
        """The trail of policy changes; its name cannot be a sandbox's, which never starts with `_`."""
        return self.trails / "_policy.jsonl"

    def trail(self, sandbox: str) -> Path:
        """The audit trail of one sandbox."""
        return self.trails / f"{sandbox}.jsonl"

    @property
    def authority(self) -> Path:
        """The folder of this installation's certificate authority."""
        return self.state / "authority"

    @property
    def agents(self) -> Path:
        """The folder of the user's own agents, a TOML file each."""
        return self.config / "agents"

    def sandbox(self, name: str) -> Path:
        """The folder of one sandbox: its writable layer, its session's lock, socket and log."""
        return self.sandboxes / name

    @property
    def sandboxes(self) -> Path:
        """The folder of all of those."""
        return self.state / "sandboxes"

    @property
    def templates(self) -> Path:
        """The folder of templates, one folder each."""
        return self.data / "templates"

    @property
    def vm(self) -> Path:
        """The folder of what virtual machines boot from; all of it can be made again."""
        return self.data / "vm"
