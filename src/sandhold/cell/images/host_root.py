"""The host kind of template: the host's own programs, and nothing that is the host's own business.

Rules:

1. `/usr` and `/opt` (and `/bin`, `/lib` and the like where they are no links into `/usr`) are the host's, under a
   layer.
2. Of `/etc` only what is named below is copied, regular files and links only; accounts are made up.
3. Everything else starts empty: no `/root`, no `/home`, no `/var` of the host.
"""

# System calls on a tree where pathlib has no words for links and descriptors.
# ruff: noqa: PTH102, PTH112, PTH115, PTH116, PTH120, PTH123, PTH208, PTH211

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from sandhold.cell.images.layers import WORKBENCH, overlay, overlay_of

if TYPE_CHECKING:
    from sandhold.cell.plan import Plan

COPIED_FILES_MAX: Final = 20_000  # a full bundle of certificates and alternatives is a tenth of it
COPIED_BYTES_MAX: Final = 32 << 20

_FOLDERS: Final = ("usr", "opt", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_COPIED: Final = [
    "alternatives",
    "ssl/certs",
    "ssl/openssl.cnf",
    "pki/tls/certs",
    "ca-certificates",
    "ca-certificates.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "mime.types",
    "os-release",
    "debian_version",
    "lsb-release",
    "bash.bashrc",
    "profile",
    "profile.d",
    "inputrc",
    "terminfo",
    "python3",
    "python3.11",
    "python3.12",
    "python3.13",
    "localtime",
    "timezone",
    "services",
    "protocols",
    "rpc",
    "magic",
    "magic.mime",
    "skel",
    "locale.alias",
    "fonts",
    "java-17-openjdk",
    "java-21-openjdk",
]
_MADE: Final = (
    ("passwd", "root:x:0:0:root:/root:/bin/bash\nagent:x:1000:1000:agent:/home/agent:/bin/bash\n"
     "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n", 0o644),
    ("group", "root:x:0:\ntty:x:5:\nsudo:x:27:agent\nagent:x:1000:\nnogroup:x:65534:\n", 0o644),
    ("shadow", "root:*:19000:0:99999:7:::\nagent:*:19000:0:99999:7:::\n", 0o600),
    ("nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n", 0o644),
    ("hostname", "sandbox\n", 0o644),
    ("hosts", "127.0.0.1 localhost\n::1 localhost\n", 0o644),
    ("resolv.conf", "", 0o644),
    ("sudoers", "Defaults env_keep += \"HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy\"\n"
     "root ALL=(ALL:ALL) ALL\nagent ALL=(ALL:ALL) NOPASSWD: ALL\n", 0o440),
    ("pam.d/sudo", "auth sufficient pam_permit.so\naccount sufficient pam_permit.so\nsession required pam_permit.so\n",
     0o644),
    ("pam.d/other", "auth required pam_deny.so\naccount required pam_deny.so\nsession required pam_deny.so\n", 0o644),
)  # fmt: skip


def host_layers(
    plan: Plan, inner: int, layer: int, template: int
) -> tuple[int, tuple[tuple[str, int], ...], tuple[tuple[str, str], ...]]:
    """Return the root, the overlays to attach in it as (path, tree), and the links to make as (path, target)."""
    # An overlay of nothing, where a plain folder would do: the list of mounts would tell where on the host it lies.
    empty = f"{WORKBENCH}/empty"
    os.mkdir(empty, 0o755)
    root = overlay(plan, layer, "root", empty, os.stat(empty))
    overlays: list[tuple[str, int]] = []
    links: list[tuple[str, str]] = []
    for name in _FOLDERS:
        try:
            status = os.stat(name, dir_fd=template, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(status.st_mode):
            links.append((f"/{name}", os.readlink(name, dir_fd=template)))
        elif stat.S_ISDIR(status.st_mode):
            fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=template)
            overlays.append((f"/{name}", overlay_of(plan, inner, layer, name, fd)))
    overlays.append(("/etc", _etc(plan, layer, template)))
    return root, tuple(overlays), tuple(links)


def _etc(plan: Plan, layer: int, template: int) -> int:
    place = f"{WORKBENCH}/etc"
    os.mkdir(place)
    source = os.open("etc", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=template)
    copier = _Copier(plan)
    for name in _COPIED:
        copier.copy(f"/proc/self/fd/{source}/{name}", f"{place}/{name}")
    os.close(source)
    for name, content, mode in _MADE:
        copier.write(f"{place}/{name}", content.encode("ascii"), mode)
    return overlay(plan, layer, "etc", place, os.stat(place))


class _Copier:
    """Copies within the limits and gives everything to root inside."""

    def __init__(self, plan: Plan) -> None:
        self._owner = plan.owner(0)
        self._files_left = COPIED_FILES_MAX
        self._bytes_left = COPIED_BYTES_MAX

    def copy(self, source: str, target: str) -> None:
        """Copy a file, a link or a folder; what is missing, unreadable or something else is left out."""
        try:
            status = os.lstat(source)
            if stat.S_ISDIR(status.st_mode):
                self._folder(target)
                for name in os.listdir(source):
                    self.copy(f"{source}/{name}", f"{target}/{name}")
            elif stat.S_ISLNK(status.st_mode):
                self._count(0)
                self._folder(os.path.dirname(target))
                os.symlink(os.readlink(source), target)
            elif stat.S_ISREG(status.st_mode):
                with open(source, "rb") as file:
                    self.write(target, file.read(COPIED_BYTES_MAX), stat.S_IMODE(status.st_mode) & 0o755)
        except (FileNotFoundError, PermissionError):
            return

    def write(self, target: str, content: bytes, mode: int) -> None:
        """Make a file of these bytes."""
        self._count(len(content))
        self._folder(os.path.dirname(target))
        with open(target, "xb") as file:
            file.write(content)
            os.fchown(file.fileno(), self._owner, self._owner)
            os.fchmod(file.fileno(), mode)

    def _folder(self, path: str) -> None:
        if os.path.isdir(path):
            return
        self._folder(os.path.dirname(path))
        os.mkdir(path, 0o755)
        os.chown(path, self._owner, self._owner)

    def _count(self, size: int) -> None:
        self._files_left -= 1
        self._bytes_left -= size
        if self._files_left < 0 or self._bytes_left < 0:
            raise OSError("the host's `/etc` holds more certificates and settings than a sandbox takes over")
