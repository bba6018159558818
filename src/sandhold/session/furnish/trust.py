"""Whom programs inside trust: the host's own bundle and the sandbox's authority, wherever each tool looks for it.

1. `BUNDLE` is the host's bundle with the authority after it, read-only and fresh on every start: what variables name.
2. The distribution's own stores, which no variable reaches, look as if its own command had added the authority and each
   certificate of the host's bundle that the template lacks: a file among the machine's local ones, a link to it in the
   folder of links (Java's package takes no other), the link that OpenSSL finds by the subject's hash, a block in the
   bundle. So that command still works inside (it renames a new bundle over the old one), and what it makes anew says
   the same.
3. A Java key store that is there and lacks the authority is replaced by one with all of them.
4. A store of NSS, as browsers have one a user, is made where none is; one that is there is left to whoever made it. So
   is Firefox's policy file (https://mozilla.github.io/policy-templates/), which says whom to take into its own stores.

In the distribution's stores a start only adds; what the host stops trusting leaves `BUNDLE` only.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import re
import struct
from collections import Counter
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from sandhold.cell.layout import AGENT_HOME
from sandhold.cell.spec import InjectedFile, Seed, Seeding
from sandhold.paths import CERTIFICATE_FILE
from sandhold.session.furnish.certificate import elements, read_certificate
from sandhold.session.furnish.nss_store import certificate_store, key_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

BUNDLE: Final = "/etc/ssl/sbx/bundle.crt"
AUTHORITY: Final = "/etc/ssl/sbx/sbx-authority.crt"
SYSTEM_BUNDLE: Final = "/etc/ssl/certs/ca-certificates.crt"
JAVA_STORE: Final = "/etc/ssl/certs/java/cacerts"
JAVA_PASSWORD: Final = "changeit"  # noqa: S105  # Java's own documented default; the store holds nothing secret
CERTIFICATE_BYTES_MAX: Final = 64 * 1024  # of the authority's; ours has less than 1 KB
ADDED_MAX: Final = 32  # companies have a handful of roots; a template with another distribution's bundle lacks dozens

FIREFOX_POLICIES: Final = "/etc/firefox/policies/policies.json"
NSS_STORES: Final = (*(f"{home}/.pki/nssdb" for home in (AGENT_HOME, "/root")), "/etc/pki/nssdb")

_OURS: Final = "/etc/ssl/sbx"
_LOCAL: Final = "/usr/local/share/ca-certificates"
_LINKS: Final = "/etc/ssl/certs"
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----([^-]+)-----END CERTIFICATE-----")
_JAVA_MAGIC: Final = 0xFEEDFEED
_JAVA_VERSION: Final = 2
_JAVA_TRUSTED: Final = 2
_JAVA_SALT: Final = b"Mighty Aphrodite"
_SEQUENCE, _SET, _UTF8, _PRINTABLE, _T61, _IA5, _VISIBLE, _UNIVERSAL, _BMP = 48, 49, 12, 19, 20, 22, 26, 28, 30
_ENCODINGS: Final = {
    _UTF8: "utf-8",
    _PRINTABLE: "ascii",
    _T61: "latin-1",
    _IA5: "ascii",
    _VISIBLE: "ascii",
    _UNIVERSAL: "utf-32-be",
    _BMP: "utf-16-be",
}


def injected(host_bundle: bytes, authority: bytes, template_bundle: bytes | None) -> tuple[InjectedFile, ...]:
    """Return the read-only files; all arguments are PEM, and without `template_bundle` the template has none."""
    joined = host_bundle.rstrip() + b"\n" + authority
    return (
        InjectedFile(PurePosixPath(BUNDLE), joined),
        *(
            InjectedFile(PurePosixPath(f"{_OURS}/{name}.crt"), pem)
            for name, pem in _added(host_bundle, authority, template_bundle)
        ),
    )


def seeds(host_bundle: bytes, authority: bytes, template_bundle: bytes | None) -> tuple[Seed, ...]:
    """Return what goes into the layer, for the same arguments as `injected`."""
    links: list[Seed] = []
    numbers: Counter[str] = Counter()  # whoever has the same subject gets the next number
    for name, pem in _added(host_bundle, authority, template_bundle):
        hashed = subject_hash(pem)
        links.append(_link(f"{_LOCAL}/{name}.crt", f"{_OURS}/{name}.crt"))
        links.append(_link(f"{_LINKS}/{name}.pem", f"{_LOCAL}/{name}.crt"))
        links.append(_link(f"{_LINKS}/{hashed}.{numbers[hashed]}", f"{name}.pem"))
        numbers[hashed] += 1
    everybody = host_bundle.rstrip() + b"\n" + authority
    (own,) = certificates(authority)
    return (
        Seed(PurePosixPath(SYSTEM_BUNDLE), everybody, Seeding.APPEND),
        *links,
        Seed(PurePosixPath(JAVA_STORE), java_store(certificates(everybody)), Seeding.REPLACE, marker=own),
        *_browser_seeds(_added(host_bundle, authority, template_bundle)),
    )


def subject_hash(pem: bytes) -> str:
    """Return the name under which OpenSSL looks for a certificate in a folder. X509_NAME_hash(3): the first four bytes,
    little-endian, of the SHA-1 of the subject in its canonical form: each text in UTF-8, lower case, blanks folded.

    Raises:
        ValueError: when it is no certificate.
    """
    try:
        (der,) = certificates(pem)
        ((_, _, subject),) = elements(read_certificate(der).subject)
        sets = [content for _, _, content in elements(subject)]
        canonical = b"".join(_element(_SET, b"".join(_canonical(one) for _, one, _ in elements(s))) for s in sets)
    except IndexError:
        raise ValueError("it is cut short") from None
    (number,) = struct.unpack_from("<I", hashlib.sha1(canonical, usedforsecurity=False).digest())
    return f"{number:08x}"


def java_store(certificates: Sequence[bytes]) -> bytes:
    """Return a key store of type JKS that trusts these certificates (DER). The format is that of the JDK's own
    `sun.security.provider.JavaKeyStore`: big-endian, modified UTF-8, and a keyed SHA-1 at the end."""
    parts = [struct.pack(">III", _JAVA_MAGIC, _JAVA_VERSION, len(certificates))]
    for number, der in enumerate(certificates):
        alias = f"sbx-{number}".encode("ascii")
        parts.append(struct.pack(">IH", _JAVA_TRUSTED, len(alias)) + alias + struct.pack(">q", 0))
        parts.append(struct.pack(">H", 5) + b"X.509" + struct.pack(">I", len(der)) + der)
    data = b"".join(parts)
    keyed = JAVA_PASSWORD.encode("utf-16-be") + _JAVA_SALT + data
    return data + hashlib.sha1(keyed, usedforsecurity=False).digest()


def _added(host_bundle: bytes, authority: bytes, template_bundle: bytes | None) -> list[tuple[str, bytes]]:
    """Return file name and PEM of all that the distribution's own stores must learn of, the authority first."""
    known = None if template_bundle is None else set(certificates(template_bundle))
    added = [("sbx-authority", authority)]
    if known is not None:
        missing = [der for der in certificates(host_bundle) if der not in known]
        added += [(f"sbx-host-{hashlib.sha256(der).hexdigest()[:16]}", _pem(der)) for der in missing[:ADDED_MAX]]
    return [(name, pem) for name, pem in added if _is_readable(pem)]


def _browser_seeds(added: Sequence[tuple[str, bytes]]) -> Iterator[Seed]:
    """Rule 4. Browsers have the authorities that everybody knows built in."""
    policies = {"policies": {"Certificates": {"Install": [f"{_OURS}/{name}.crt" for name, _ in added]}}}
    yield Seed(PurePosixPath(FIREFOX_POLICIES), json.dumps(policies).encode("ascii"), Seeding.CREATE)
    known = [read_certificate(der) for _, pem in added for der in certificates(pem)]
    for name, content in (("cert9.db", certificate_store(known)), ("key4.db", key_store())):
        for folder in NSS_STORES:
            is_agents = folder.startswith(AGENT_HOME)
            yield Seed(PurePosixPath(folder, name), content, Seeding.CREATE, is_agents=is_agents)


def _is_readable(pem: bytes) -> bool:
    """Whether it is a certificate; a bundle may hold one that is older than today's rules, which nothing accepts."""
    try:
        subject_hash(pem)
    except ValueError:
        return False
    return True


def certificates(pem: bytes) -> list[bytes]:
    """Return the DER of every certificate, each once, in order."""
    found: dict[bytes, None] = {}
    for block in _CERTIFICATE.finditer(pem):
        with contextlib.suppress(binascii.Error):  # a damaged block; whoever reads the bundle skips it as well
            found[base64.b64decode(block[1])] = None
    return list(found)


def _pem(der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""])


def written_certificate(folder: Path) -> bytes | None:
    """Return the certificate in an authority's folder, PEM as `egress/certificates.py` writes it.

    None when there is none, or what is there needs the look of somebody who can say what is wrong with it.
    """
    try:
        with (folder / CERTIFICATE_FILE).open("rb") as file:
            pem = file.read(CERTIFICATE_BYTES_MAX)
    except OSError:
        return None
    found = certificates(pem)
    return pem if len(found) == 1 and pem == _pem(found[0]) and _is_readable(pem) else None


def _link(path: str, target: str) -> Seed:
    return Seed(PurePosixPath(path), target.encode("ascii"), Seeding.LINK)


def _canonical(attribute: bytes) -> bytes:
    """Return a type and value with the value as OpenSSL compares it; what is no text stays as it is."""
    ((_, _, inner),) = elements(attribute)
    (_, kind, _), (tag, value, text) = elements(inner)
    encoding = _ENCODINGS.get(tag)
    if encoding is not None:
        words = text.decode(encoding).encode("utf-8").lower().split()
        value = _element(_UTF8, b" ".join(words))
    return _element(_SEQUENCE, kind + value)


def _element(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = (length.bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + length.to_bytes(size) + content
