"""A template as one read-only disk image: its layers merged, in the EROFS format, uncompressed.

Uncompressed because reading costs the guest nothing then, and the page cache of the host is shared by all guests. The
kernel does the merging: an overlay in a mount namespace of its own, seen by whoever owns the ids of the template
(`cell/ownership.py`), so that the owners in the image are the ids inside.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from typing import TYPE_CHECKING, Final

from sandhold.cell import tree
from sandhold.cell.images.template_files import DESCRIPTION, DESCRIPTION_BYTES_MAX
from sandhold.cell.spec import TemplateKind
from sandhold.errors import SbxError
from sandhold.linux.process import find_program

if TYPE_CHECKING:
    from pathlib import Path

    from sandhold.cell.spec import Template

IMAGE_FORMAT: Final = b"sandhold root image 1\n"
"""Changes when the same template has to give another image."""

# Run in a folder of the build's own, so that no path has to be quoted for mount(8): `$1` is the type of overlay that
# its user may mount, `$2` the image, the rest the folders to merge, the topmost first.
_MERGE: Final = """
set -eu
options=$1 image=$2
shift 2
lowers= number=0
for folder; do
    number=$((number + 1))
    mkdir "lower-$number"
    mount --bind -- "$folder" "lower-$number"
    lowers=${lowers:+$lowers:}lower-$number
done
source=lower-1
if [ "$number" -gt 1 ]; then
    mkdir merged
    mount -t overlay -o "ro,$options" -o "lowerdir=$lowers" overlay merged
    source=merged
fi
exec mkfs.erofs --quiet --preserve-mtime -- "$image" "$source"
"""


def image_key(template: Template) -> str:
    """Return what tells this template's image from every other: a digest over the descriptions of all its parts, which
    say when each was built and are written once.

    Raises:
        SbxError: when the template is the host's own root, which changes all the time, or has no description.
    """
    if template.kind is TemplateKind.HOST:
        raise SbxError(
            "a virtual machine cannot start from `host`, which is this machine's own root file system",
            hint="leave `--template` out to start from `debian`, or use `--isolation namespaces`",
        )
    digest = hashlib.sha256(IMAGE_FORMAT)
    for folder in (*template.layers, template.root):
        try:
            with (folder.parent / DESCRIPTION).open("rb") as file:
                description = file.read(DESCRIPTION_BYTES_MAX)
        except OSError as error:
            raise SbxError(f"the template in `{folder.parent}` cannot be read: {error.strerror or error}") from error
        digest.update(hashlib.sha256(folder.name.encode() + b"\0" + description).digest())
    return digest.hexdigest()[:32]


def make_root_image(template: Template, place: Path) -> Path:
    """Make the image in the folder `place`, which is the caller's and empty, and return its path.

    Raises:
        SbxError: when `mkfs.erofs` is missing or fails, or the disk has no room.
    """
    if find_program("mkfs.erofs") is None:
        raise SbxError(
            "`mkfs.erofs` is not installed", hint="`sudo apt-get install erofs-utils`, or use `--isolation namespaces`"
        )
    lowers = (*template.layers, template.root)
    _check_space(place, sum(tree.size_of(folder) for folder in lowers))
    image = place / "image"
    image.touch(mode=0o644)  # by the caller, whose it stays
    options = "userxattr" if os.geteuid() != 0 else "index=off"
    script = f'cd -- "$0" || exit 1{_MERGE}'
    tree.as_owner(
        "unshare", "--mount", "--", "sh", "-c", script, str(place), options, str(image), *(str(each) for each in lowers)
    )
    with image.open("rb") as file:
        os.fsync(file.fileno())
    return image


def _check_space(place: Path, needed: int) -> None:
    free = shutil.disk_usage(place).free
    if free < needed:
        raise SbxError(f"`{place}` has {free >> 20} MiB of free space, and the root image takes {needed >> 20} MiB")
