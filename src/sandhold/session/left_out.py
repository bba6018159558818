"""What a session and its helpers would import and never use, or only some of them, or seldom: left out of them.

1. `importlib.metadata` is what dnspython looks for other packages with; egress uses no part that they would be for.
2. `typing_extensions` is what msgspec takes instead of `typing` where a developer's tools have brought it along.
3. `_hashlib` is SHA-256 by OpenSSL: a microsecond less for a record, and four megabytes of libcrypto. Where a
   distribution has left out the interpreter's own, it stays.
4. `inspect` is what `dataclasses` describes a class without a docstring with, which no class here is.
5. `msgspec.inspect` and `msgspec._json_schema` are what msgspec describes types to people with.
6. `subprocess` is what `linux/process.py` starts programs of the host with. Process 1 starts none.

Those of 4 to 6 are imported when they are first asked for something.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_NOT_THERE: Final = ("typing_extensions",)
_EMPTY: Final = ("importlib.metadata",)
_LATER: Final = {
    "inspect": (),
    "msgspec._json_schema": ("schema", "schema_components"),
    "msgspec.inspect": (),
    "subprocess": (),
}
"""With the functions that another module takes from each when it is imported itself."""
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
    for name, functions in _LATER.items():
        sys.modules[name] = _later(name, functions)


def _later(name: str, functions: Iterable[str]) -> ModuleType:
    """Return a module that imports the one of this name when it is asked for something, and then passes that on."""
    stand_in = ModuleType(name)

    def ask(attribute: str) -> Any:
        if sys.modules.get(name) is stand_in:
            sys.modules.pop(name, None)
        return getattr(importlib.import_module(name), attribute)

    stand_in.__getattr__ = ask  # type: ignore[method-assign]  # PEP 562
    for function in functions:
        setattr(stand_in, function, lambda *given, _name=function, **named: ask(_name)(*given, **named))
    return stand_in
