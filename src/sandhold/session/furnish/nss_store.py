"""A store of trust in the format of NSS, which browsers read: `cert9.db` with certificates, `key4.db` without keys.

The format is that of NSS's own `softoken` (`lib/softoken/sdb.c` makes the tables, `lib/softoken/sftkdb.c` says how
numbers are written): a row an object, a column an attribute of PKCS #11, called `a` and the attribute's number in base
16. Each authority is two objects: the certificate, and what it is trusted for. What nobody sets needs no column.

There is no password yet, so nothing is signed with one; `certutil -N` sets one, `certutil -A` adds, as ever.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from sandhold.store.database import file_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandhold.session.furnish.certificate import Certificate

_CLASS, _TOKEN, _PRIVATE, _LABEL, _VALUE = "a0", "a1", "a2", "a3", "a11"
_TYPE, _ISSUER, _SERIAL, _SUBJECT, _ID, _MODIFIABLE = "a80", "a81", "a82", "a101", "a102", "a170"
_SERVER, _CLIENT, _CODE, _MAIL, _STEP_UP = "ace536358", "ace536359", "ace53635a", "ace53635b", "ace536360"
_SHA1, _MD5 = "ace5363b4", "ace5363b5"
_ATTRIBUTES: Final = (
    _CLASS, _TOKEN, _PRIVATE, _LABEL, _VALUE, _TYPE, _ISSUER, _SERIAL, _SUBJECT, _ID, _MODIFIABLE,
    _SERVER, _CLIENT, _CODE, _MAIL, _STEP_UP, _SHA1, _MD5,
)  # fmt: skip

_NO, _YES, _EMPTY = b"\0", b"\1", b"\xa5\0\x5a"  # the last stands for a text without a letter
_X509: Final = b"\0\0\0\0"
_CERTIFICATE: Final = b"\0\0\0\1"
_TRUST: Final = b"\xce\x53\x43\x53"
_AUTHORITY_FOR: Final = b"\xce\x53\x43\x52"  # `CKT_NSS_TRUSTED_DELEGATOR`: it may sign for others
_UNDECIDED: Final = b"\xce\x53\x43\x53"  # `CKT_NSS_MUST_VERIFY_TRUST`: neither trusted nor distrusted

_INDICES: Final = (("issuer", _ISSUER), ("subject", _SUBJECT), ("label", _LABEL), ("ckaid", _ID))
_PAGE_BYTES: Final = 512  # SQLite's least: a store with one authority is 8 KiB then, and not 28


def certificate_store(authorities: Sequence[Certificate]) -> bytes:
    """Return `cert9.db`: these are trusted to sign for servers, and for nothing else."""
    columns = ("id", *_ATTRIBUTES)
    row = f"INSERT INTO nssPublic ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608 - ours
    objects = [each for certificate in authorities for each in _objects(certificate)]
    rows = [
        (row, (number, *(found.get(attribute) for attribute in _ATTRIBUTES)))
        for number, found in enumerate(objects, start=1)
    ]
    return file_of([*_tables("nssPublic"), *rows])


def key_store() -> bytes:
    """Return `key4.db`, without a key and without a password."""
    metadata = "CREATE TABLE metaData (id PRIMARY KEY UNIQUE ON CONFLICT REPLACE, item1, item2)"
    return file_of([*_tables("nssPrivate"), (metadata, ())])


def _objects(certificate: Certificate) -> Iterator[dict[str, bytes]]:
    name = {_ISSUER: certificate.issuer, _SERIAL: certificate.serial}
    kept = {_TOKEN: _YES, _PRIVATE: _NO, _MODIFIABLE: _YES}
    sha1 = hashlib.sha1(certificate.der, usedforsecurity=False).digest()
    label = f"sbx {sha1.hex()[:8]}".encode("ascii")
    yield (
        {_CLASS: _CERTIFICATE, _LABEL: label, _VALUE: certificate.der, _TYPE: _X509, _ID: sha1}
        | name
        | kept
        | {_SUBJECT: certificate.subject}
    )
    uses = {_SERVER: _AUTHORITY_FOR, _CLIENT: _UNDECIDED, _CODE: _UNDECIDED, _MAIL: _UNDECIDED, _STEP_UP: _NO}
    sums = {_SHA1: sha1, _MD5: hashlib.md5(certificate.der, usedforsecurity=False).digest()}
    yield {_CLASS: _TRUST, _LABEL: _EMPTY} | name | kept | uses | sums


def _tables(name: str) -> Iterator[tuple[str, tuple[()]]]:
    yield f"PRAGMA page_size = {_PAGE_BYTES}", ()
    yield f"CREATE TABLE {name} (id PRIMARY KEY UNIQUE ON CONFLICT ABORT, {', '.join(_ATTRIBUTES)})", ()
    for index, column in _INDICES:
        yield f"CREATE INDEX {index} ON {name} ({column})", ()
