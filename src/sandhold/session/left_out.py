"""What a session and its helpers would import and never use, or only some of them, or seldom: left out of them.

1. `importlib.metadata` is what dnspython looks for other packages with; egress uses no part that they would be for.
2. `typing_extensions` is what msgspec takes instead of `typing` where a developer's tools have brought it along.
3. `_hashlib` is SHA-256 by OpenSSL: a microsecond less for a record, and four megabytes of libcrypto. Where a
   distribution has left out the interpreter's own, it stays.
4. `inspect` is what `dataclasses` describes a class without a docstring with, which no class here is.
5. `subprocess` is what `linux/process.py` starts programs of the host with. Process 1 starts none.

The last two are imported when they are first asked for something.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any, Final

_NOT_THERE: Final = ("typing_extensions",)
_EMPTY: Final = ("importlib.metadata",)
_LATER: Final = ("inspect", "subprocess")
_OPENSSL_HASHES: Final = "_hashlib"
_OWN_HASHES: Final = ("_md5", "_sha1", "_sha3", "_blake2") + (
    ("_sha2",) if sys.version_info >= (3, 12) else ("_sha256", "_sha512")
)


def leave_out() -> None:
    """Put something smaller in the place of each, before anything imports one."""
    absent = list(_NOT_THERE)
    if all(importlib.util.find_spec(name) is not None for name in _OWN_HASHES):
        absent.append(_OPENSSL_HASHES)
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]  # to say that it cannot be imported (`sys.modules`)
    for name in _EMPTY:
        sys.modules[name] = ModuleType(name)
    for name in _LATER:
        sys.modules[name] = _later(name)


def _later(name: str) -> ModuleType:
    """Return a module that imports the one of this name when it is asked for something, and then passes that on."""
    stand_in = ModuleType(name)

    def ask(attribute: str) -> Any:
        if sys.modules[name] is stand_in:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    stand_in.__getattr__ = ask  # type: ignore[method-assign]  # PEP 562
    return stand_in
