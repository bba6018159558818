"""The installation's own certificate authority, and the short-lived certificates it signs for names we answer in.

Rules:

1. The authority's key is made once, on this machine, and is the only key that is ever on disk (folder 0700, file 0600).
2. It appears whole or not at all: a new folder is renamed into place; whoever comes second uses the first one's.
3. A key that others can read, or that does not fit its certificate, is not used.
4. Leaves are for exactly one validated host, for a week, for server authentication, with one key a process that is
   never written down.
5. Both kinds satisfy RFC 5280 to the letter (`VERIFY_X509_STRICT`, the default of Python 3.13 and later).
6. Contexts are cached, and made at a limited rate: one costs 3 ms, and a sandbox can ask for any number of names.
"""

from __future__ import annotations

import os
import shutil
import ssl
import stat
import tempfile
import time
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sandhold.egress.token_bucket import TokenBucket
from sandhold.errors import EXIT_NOT_HELD, SbxError
from sandhold.model.destination import HOST_SERVICE_NAMES, DomainName, HostService
from sandhold.paths import CERTIFICATE_FILE

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandhold.model.destination import Host

CONTEXTS_MAX: Final = 256  # 24 KB each
MINTING_RATE: Final = 30.0  # new names a second: a tenth of one core
MINTING_BURST: Final = 120  # a page or an installer that touches many hosts at once
KEY_BYTES_MAX: Final = 64 * 1024  # of a file in the authority's folder; ours have less than 1 KB

AUTHORITY_VALID: Final = timedelta(days=3650)
LEAF_VALID: Final = timedelta(days=7)
LEAF_RENEWED_BEFORE: Final = timedelta(days=1)
CLOCK_SKEW: Final = timedelta(days=1)  # a guest's clock may be behind ours
COMMON_NAME_MAX: Final = 64  # RFC 5280 appendix A.1, ub-common-name

KEY_FILE: Final = "key.pem"

_PEM: Final = serialization.Encoding.PEM


class MintingLimitError(Exception):
    """New certificates are asked for faster than `MINTING_RATE` (rule 6)."""


class Authority:
    """The authority's key and certificate, and the contexts made with them; for one thread."""

    __slots__ = ("_bucket", "_certificate", "_contexts", "_key", "_leaf_key", "_now")

    def __init__(
        self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, now: Callable[[], float] = time.time
    ) -> None:
        self._key = key
        self._certificate = certificate
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._now = now
        self._bucket = TokenBucket(MINTING_RATE, MINTING_BURST, time.monotonic)
        self._contexts: OrderedDict[Host, tuple[ssl.SSLContext, float]] = OrderedDict()

    @classmethod
    def load_or_create(cls, folder: Path, now: Callable[[], float] = time.time) -> Authority:
        """Use the authority in the folder, or make it there; safe when several processes do so at once (rule 2).

        Raises:
            SbxError: when what is there cannot be used (rule 3).
            OSError: when the folder cannot be made.
        """
        if not _has_authority(folder):
            _create(folder, _moment(now))
        return cls(*_load(folder, _moment(now)), now)

    @property
    def certificate_pem(self) -> bytes:
        """The certificate that a sandbox trusts, as PEM."""
        return self._certificate.public_bytes(_PEM)

    def context_for(self, host: Host) -> ssl.SSLContext:
        """The server side of TLS in the name of a host, HTTP/2 or HTTP/1.1.

        Raises:
            MintingLimitError: when the host is new and too many were new lately.
        """
        now = self._now()
        cached = self._contexts.get(host)
        if cached is not None and now < cached[1]:
            self._contexts.move_to_end(host)
            return cached[0]
        if not self._bucket.take():
            raise MintingLimitError(f"more than {MINTING_RATE:.0f} new names a second")
        context = self._make_context(host)
        self._contexts[host] = (context, now + (LEAF_VALID - LEAF_RENEWED_BEFORE).total_seconds())
        self._contexts.move_to_end(host)
        if len(self._contexts) > CONTEXTS_MAX:
            self._contexts.popitem(last=False)
        return context

    def _make_context(self, host: Host) -> ssl.SSLContext:
        key = self._leaf_key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
        context.num_tickets = 0
        context.set_alpn_protocols(["h2", "http/1.1"])
        _load_chain(context, key + self._mint(host).public_bytes(_PEM))
        return context

    def _mint(self, host: Host) -> x509.Certificate:
        now = _moment(self._now)
        public_key = self._leaf_key.public_key()
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(_subject(host))
            .issuer_name(self._certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(now + LEAF_VALID)
            .add_extension(x509.SubjectAlternativeName(_alternative_names(host)), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(authority_key, critical=False)
        )
        return builder.sign(self._key, hashes.SHA256())


def _create(folder: Path, now: datetime) -> None:
    """Make an authority beside the folder and rename it into place; losing that race is success (rule 2)."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))  # mode 0700
    try:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        _write_durably(made / KEY_FILE, pem, 0o600)
        _write_durably(made / CERTIFICATE_FILE, _self_signed(key, now).public_bytes(_PEM), 0o644)
        _sync_folder(made)
        try:
            made.rename(folder)  # replaces an empty folder, fails on any other: rename(2)
        except OSError:
            if not _has_authority(folder):
                raise
        _sync_folder(folder.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _load(folder: Path, now: datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    try:
        key = serialization.load_pem_private_key(_read_private(folder / KEY_FILE), password=None)
        certificate = x509.load_pem_x509_certificate(_read(folder / CERTIFICATE_FILE))
    except (ValueError, TypeError, UnsupportedAlgorithm, OSError) as error:
        raise _unusable(folder, str(error)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise _unusable(folder, "the key is not the certificate's")
    if now + LEAF_VALID > certificate.not_valid_after_utc:
        raise _unusable(folder, "it expires within a week")
    return key, certificate


def _self_signed(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"sandhold authority {identifier.digest.hex()[:8]}")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW - CLOCK_SKEW)
        .not_valid_after(now + AUTHORITY_VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_authority=True), critical=True)
        .add_extension(identifier, critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(host: Host) -> x509.Name:
    """Who the certificate is for, as tools show it; no verifier reads it when there are alternative names."""
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "sandhold")]
    if len(str(host)) <= COMMON_NAME_MAX:
        names.append(x509.NameAttribute(NameOID.COMMON_NAME, str(host)))
    return x509.Name(names)


def _alternative_names(host: Host) -> list[x509.GeneralName]:
    match host:
        case DomainName():
            return [x509.DNSName(host.value)]
        case HostService():
            return [x509.DNSName(name) for name in sorted(HOST_SERVICE_NAMES)]
        case IPv4Address() | IPv6Address():
            return [x509.IPAddress(host)]


def _load_chain(context: ssl.SSLContext, pem: bytes) -> None:
    """Hand key and certificate to OpenSSL, which only reads files, through one that has no name (memfd_create(2))."""
    fd = os.memfd_create("leaf", os.MFD_CLOEXEC)
    try:
        os.write(fd, pem)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _has_authority(folder: Path) -> bool:
    return (folder / KEY_FILE).exists() or (folder / CERTIFICATE_FILE).exists()


def _read_private(path: Path) -> bytes:
    """Rule 3: only a regular file of ours that nobody else can read."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PermissionError("the key is readable by others")
    return _read(path)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(KEY_BYTES_MAX)


def _write_durably(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(fd, "wb") as file:  # noqa: PTH123  a descriptor, opened with its mode
        file.write(data)
        file.flush()
        os.fsync(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unusable(folder: Path, why: str) -> SbxError:
    return SbxError(
        f"the certificate authority in `{folder}` cannot be used: {why}",
        hint=f"remove it with `rm -r {folder}`; the next `sbx run` makes a new one",
        status=EXIT_NOT_HELD,
    )


def _moment(now: Callable[[], float]) -> datetime:
    return datetime.fromtimestamp(now(), UTC)
