"""A company's own certificate authority, as a host may trust one: not in any distribution's bundle."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NAME: Final = "host.docker.internal"
COMMON_NAME: Final = "Example  Company\tRoot Ä"  # blanks, upper case and a letter beyond ASCII

_PEM: Final = serialization.Encoding.PEM
_YEAR: Final = timedelta(days=365)


class Company:
    """The authority and a server certificate for the user's machine as a sandbox knows it, in a folder."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        root = _certificate(COMMON_NAME, key, COMMON_NAME, key)
        server_key = ec.generate_private_key(ec.SECP256R1())
        server = _certificate(NAME, server_key, COMMON_NAME, key)
        self.root_pem = root.public_bytes(_PEM)
        self.bundle = folder / "bundle.crt"
        self.bundle.write_bytes(_host_bundle() + self.root_pem)
        self.server_pem = server.public_bytes(_PEM)
        self._chain = folder / "server.pem"
        private = server_key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self._chain.write_bytes(private + self.server_pem)

    def server_context(self, *protocols: str) -> ssl.SSLContext:
        """Return the server side of TLS for `NAME` with these protocols on offer (ALPN)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._chain)
        context.set_alpn_protocols(list(protocols))
        return context


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    is_root, now = name == issuer, datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=not is_root,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_root,
        crl_sign=is_root,
        encipher_only=False,
        decipher_only=False,
    )
    authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _YEAR)
        .not_valid_after(now + _YEAR)
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authority_key, critical=False)
    )
    if not is_root:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example Company"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _host_bundle() -> bytes:
    paths = (
        os.environ.get("SSL_CERT_FILE"),
        ssl.get_default_verify_paths().cafile,
        "/etc/ssl/certs/ca-certificates.crt",
    )
    return next(Path(path).read_bytes() for path in paths if path and Path(path).is_file())
