"""Whether a sandbox's template is there with nothing to make or to say, found out with few modules."""

from __future__ import annotations

from sandhold.cell.images.template_files import stands_alone


def is_ready(data: str, template: str) -> bool:
    """Whether a template is there that lies over no other; `data` is the folder `Paths.data`.

    Others are looked at by `templates.py`: they may be outdated, or to be built.
    """
    return stands_alone(f"{data}/templates", template)
