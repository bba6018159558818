"""A root file system made by `mmdebstrap`, with the ownership that cells expect.

As root the tree is made in place: the ids on disk are the ids inside. For an ordinary user `mmdebstrap` makes an
archive in a user namespace of its own, and the archive is unpacked in one whose map is the one that cells use, so that
files of `agent` belong to the user, and every other file to the user's subordinate ids.

No mirror is named here: the template comes from where the host's own packages come from.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandhold.cell import tree
from sandhold.cell.ownership import require_user_ids
from sandhold.cell.spec import AGENT_UID, AGENT_USER
from sandhold.errors import SbxError
from sandhold.linux.process import find_program, run_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Progress = Callable[[str, str], None]

BUILD_S_MAX: Final = 1800.0  # a template is some 200 MB of packages: half an hour on a slow line

FALLBACK_SUITE: Final = "trixie"  # Debian's stable release; used where the host is not Debian

PACKAGES: Final = (
    "python3", "python3-pip", "python3-venv", "nodejs", "npm", "git", "curl", "ca-certificates", "openssh-client",
    "sudo", "procps", "iproute2", "less", "vim-tiny", "file", "patch", "make", "unzip", "xz-utils",
)  # fmt: skip

_NO_DOCUMENTATION: Final = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/locale/*/LC_MESSAGES/*.mo",
)

# apt's own user owns no file outside the tree, where it could not even read the folders above it; inside a cell that
# user would protect nothing. The setting stays in the tree.
_APT_AS_ROOT: Final = 'APT::Sandbox::User "root"'

_CONFIGURE: Final = (
    f'chroot "$1" useradd --create-home --user-group --uid {AGENT_UID} --groups sudo --shell /bin/bash {AGENT_USER}',
    f'printf "{AGENT_USER} ALL=(ALL:ALL) NOPASSWD: ALL\\n" >"$1/etc/sudoers.d/{AGENT_USER}"',
    f'chmod 0440 "$1/etc/sudoers.d/{AGENT_USER}"',
    # Java's packages put links there, and fail where the manual pages' folder was left out.
    'mkdir -p "$1/usr/share/man/man1"',
    # mmdebstrap copies these two from the host, and the cell puts its own over them.
    'for name in hostname resolv.conf machine-id; do rm -f "$1/etc/$name"; : >"$1/etc/$name"; done',
    'printf "127.0.0.1 localhost\\n::1 localhost\\n" >"$1/etc/hosts"',
    # PEP 668 holds inside as it does on a real machine: a template without the marker is not one.
    'ls "$1"/usr/lib/python3*/EXTERNALLY-MANAGED >/dev/null',
)
"""Run by `mmdebstrap` with a shell, in this order, with the tree as `$1`; the first that fails ends the build."""

LINES_KEPT: Final = 12  # of what a failed build said last: apt puts the cause there
_KINDS: Final = {"I": "building", "W": "warning", "E": "error"}
_NETWORK_WORDS: Final = (
    "Temporary failure",
    "Could not resolve",
    "Could not connect",
    "Failed to fetch",
    "Unable to connect",
)
_INSTEAD: Final = "use `--template host`"
_KEYRING_WORDS: Final = ("NO_PUBKEY", "not signed", "archive-keyring")
_OWN_MOUNTS: Final = (
    "unshare",
    "--mount",
    "--propagation",
    "private",
    "--",
)  # unshare(1); an ordinary user's has its own
_PASSED_ON: Final = ("HOME", "TMPDIR", "http_proxy", "https_proxy", "ftp_proxy", "no_proxy")


@dataclass(frozen=True, slots=True)
class Source:
    """Which release of Debian, and the host's own list of where to get it (None: `mmdebstrap` knows)."""

    suite: str
    list_file: Path | None


def host_source(etc: Path) -> Source:
    """Read the release of a Debian host from `os-release` (man page os-release(5)) and find its package sources
    (sources.list(5)); any other host gets `FALLBACK_SUITE`."""
    release = _read_os_release(etc / "os-release")
    suite = release.get("VERSION_CODENAME")
    if release.get("ID") != "debian" or not suite:
        return Source(FALLBACK_SUITE, None)
    candidates = (etc / "apt/sources.list.d/debian.sources", etc / "apt/sources.list")
    return Source(suite, next((path for path in candidates if path.is_file()), None))


def make_rootfs(source: Source, folder: Path, lock: int, progress: Progress) -> None:
    """Make `folder/rootfs`; `folder` exists and belongs to the caller, and `lock` is a descriptor whose lock the build
    holds on to, even when we are killed.

    Raises:
        SbxError: when `mmdebstrap` is missing, fails or takes longer than `BUILD_S_MAX`.
    """
    if find_program("mmdebstrap") is None:
        raise SbxError("`mmdebstrap` is not installed", hint=f"`sudo apt-get install mmdebstrap`, or {_INSTEAD}")
    rootfs = folder / "rootfs"
    if os.geteuid() == 0:
        run_mmdebstrap(mmdebstrap_command(source, rootfs, is_root=True), lock, progress, instead=_INSTEAD)
        tree.delete_tree(rootfs / "dev")
        (rootfs / "dev").mkdir(mode=0o755)
        return
    require_user_ids()
    archive = folder / "rootfs.tar"
    run_mmdebstrap(mmdebstrap_command(source, archive, is_root=False), lock, progress, instead=_INSTEAD)
    progress("unpacking", "with the user ids that sandboxes have")
    tree.unpack(archive, rootfs)
    archive.unlink()


def mmdebstrap_command(source: Source, target: Path, *, is_root: bool) -> tuple[str, ...]:
    """Return the whole command (man page mmdebstrap(1)): a folder as root, else an archive."""
    return (
        "mmdebstrap",
        "--variant=minbase",
        f"--mode={'root' if is_root else 'unshare'}",
        f"--format={'directory' if is_root else 'tar'}",
        f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt={option}" for option in _NO_DOCUMENTATION),
        f"--aptopt={_APT_AS_ROOT}",
        *(f"--customize-hook={hook}" for hook in _CONFIGURE),
        source.suite,
        str(target),
        *([str(source.list_file)] if source.list_file is not None else []),
    )


def run_mmdebstrap(command: tuple[str, ...], lock: int, progress: Progress, *, instead: str) -> None:
    """Run it and pass on what it says; its last lines are the error when it fails, and `instead` is what else to do.

    Root's build mounts the host's `/dev` and more into its tree. It does so in a mount namespace of its own
    (mount_namespaces(7)), which ends with it: however it is killed, none of that stays in a folder that somebody will
    delete.

    Raises:
        SbxError: when it fails or takes longer than `BUILD_S_MAX`.
    """
    if os.geteuid() == 0:
        command = (*_OWN_MOUNTS, *command)
    said: deque[str] = deque(maxlen=LINES_KEPT)

    def on_line(line: str) -> None:
        said.append(line)
        kind, _, text = line.partition(": ")
        if kind in _KINDS and "--customize-hook" not in text:
            progress(_KINDS[kind], text)

    try:
        status = run_lines(command, on_line, timeout_s=BUILD_S_MAX, env=_environment(os.environ), keep=(lock,))
    except TimeoutError:
        status = None
    if status == 0:
        return
    how = f"took longer than {BUILD_S_MAX / 60:.0f} minutes" if status is None else f"failed with status {status}"
    raise SbxError("\n".join((f"`mmdebstrap` {how}", *said)), hint=_hint("\n".join(said), instead))


def _hint(said: str, instead: str) -> str:
    if any(words in said for words in _NETWORK_WORDS):
        return f"the host's package sources cannot be reached; check the network, or {instead} meanwhile"
    if any(words in said for words in _KEYRING_WORDS):
        return f"`sudo apt-get install debian-archive-keyring`, or {instead}"
    return f"try `sbx doctor`, or {instead}, which needs no building"


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what `mmdebstrap` and apt may know of the user's environment."""
    return {name: environ[name] for name in _PASSED_ON if name in environ}


def _read_os_release(path: Path) -> dict[str, str]:
    """Return the fields of `os-release`; none when it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = (line.partition("=") for line in lines)
    return {name: value.strip("\"'") for name, equals, value in pairs if equals}
