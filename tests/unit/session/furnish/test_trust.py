"""Stores of trust are what OpenSSL, Java and a distribution's own command would have made."""

from __future__ import annotations

import base64
import json
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandhold.cell.spec import Seeding
from sandhold.egress.certificates import Authority
from sandhold.session.furnish import trust
from tests.tools.company import Company

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandhold.cell.spec import Seed

OPENSSL = shutil.which("openssl")
KEYTOOL = shutil.which("keytool")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The sandbox's authority."""
    return Authority.load_or_create(tmp_path_factory.mktemp("authority") / "authority").certificate_pem


@pytest.fixture(scope="module")
def companies(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Two roots of one name, one for each of a company's sites."""
    return [Company(tmp_path_factory.mktemp(name)).root_pem for name in ("north", "south")]


def der(pem: bytes) -> bytes:
    """Return the bytes of one certificate."""
    return ssl.PEM_cert_to_DER_cert(pem.decode())


def by_path(seeds: tuple[Seed, ...]) -> dict[str, Seed]:
    """Return seeds by where they go."""
    return {str(seed.path): seed for seed in seeds}


@pytest.mark.skipif(OPENSSL is None, reason="no `openssl` to compare with")
def test_subject_hashes_are_those_of_openssl(authority: bytes, companies: list[bytes]) -> None:
    """Blanks, upper case, letters beyond ASCII and every root of the host's bundle hash as `openssl` hashes them."""
    bundle = next(path for path in (ssl.get_default_verify_paths().cafile, *BUNDLES) if path and Path(path).is_file())
    found = [authority, companies[0]]
    found += [ssl.DER_cert_to_PEM_cert(each).encode() for each in trust.certificates(Path(bundle).read_bytes())]
    assert len(found) > 2
    for pem in found:
        argv = [str(OPENSSL), "x509", "-noout", "-subject_hash"]
        said = subprocess.run(argv, input=pem, capture_output=True, check=True).stdout
        assert trust.subject_hash(pem) == said.decode().strip()


BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")

BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "no PEM": lambda _: b"",
    "cut in the middle": lambda pem: ssl.DER_cert_to_PEM_cert(der(pem)[:100]).encode(),
    "one byte": lambda _: ssl.DER_cert_to_PEM_cert(b"0").encode(),
    "no certificate": lambda _: ssl.DER_cert_to_PEM_cert(b"\x30\x03\x02\x01\x05").encode(),
    "not base 64": lambda _: b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n",
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_what_is_no_certificate_is_left_out(authority: bytes, broken: Callable[[bytes], bytes]) -> None:
    """A damaged entry of the host's bundle has no hash and stops no start."""
    damaged = broken(authority)
    with pytest.raises(ValueError, match=r".*"):
        trust.subject_hash(damaged)
    assert len(trust.injected(damaged, authority, b"")) == 2


def test_the_bundle_is_the_hosts_with_the_authority(authority: bytes, companies: list[bytes]) -> None:
    """What variables name holds the host's bundle, then the authority, whatever the template has."""
    files = {str(file.path): file.content for file in trust.injected(companies[0], authority, None)}
    assert files[trust.BUNDLE] == companies[0] + authority
    assert files[trust.AUTHORITY] == authority


def test_the_distributions_stores_learn_what_they_lack(authority: bytes, companies: list[bytes]) -> None:
    """The authority and each root that the template lacks get a file and both links; equal names get equal hashes with
    numbers; a root that the template knows gets nothing."""
    north, south = companies
    files = {str(file.path): file.content for file in trust.injected(north + south, authority, None)}
    assert set(files) == {trust.BUNDLE, trust.AUTHORITY}
    files = {str(file.path): file.content for file in trust.injected(north + south, authority, south)}
    added = {path: content for path, content in files.items() if "/sbx-host-" in path}
    assert [der(content) for content in added.values()] == [der(north)]

    files = {str(file.path): file.content for file in trust.injected(north + south, authority, b"")}
    seeds = by_path(trust.seeds(north + south, authority, b""))
    local = {seed.content.decode() for path, seed in seeds.items() if path.startswith("/usr/local/share/")}
    assert local == files.keys() - {trust.BUNDLE}
    hashed = trust.subject_hash(north)
    first, second = (seeds[f"/etc/ssl/certs/{hashed}.{number}"] for number in (0, 1))
    for link in (first, second):
        assert link.seeding is Seeding.LINK
        named = seeds[f"/etc/ssl/certs/{link.content.decode()}"]
        assert seeds[named.content.decode()].content.decode() in files
    assert first.content != second.content
    assert seeds[trust.SYSTEM_BUNDLE].content == north + south + authority


def test_a_foreign_bundle_does_not_flood_the_stores(authority: bytes) -> None:
    """However many roots the template lacks, the stores get a bounded number of files, and the bundle all."""
    many = b"".join(
        ssl.DER_cert_to_PEM_cert(der(authority)[:-1] + bytes([number])).encode()
        for number in range(trust.ADDED_MAX * 2)
    )
    added = [file for file in trust.injected(many, authority, b"") if "sbx-host-" in str(file.path)]
    assert len(added) == trust.ADDED_MAX
    assert by_path(trust.seeds(many, authority, b""))[trust.SYSTEM_BUNDLE].content == many + authority


def test_a_java_store_is_replaced_by_one_that_trusts_the_authority(authority: bytes, companies: list[bytes]) -> None:
    """The marker of the replacement is the authority, which the replacement holds: it is replaced once."""
    store = by_path(trust.seeds(companies[0], authority, None))[trust.JAVA_STORE]
    assert store.seeding is Seeding.REPLACE
    assert store.marker == der(authority)
    assert store.marker in store.content
    assert der(companies[0]) in store.content


@pytest.mark.skipif(KEYTOOL is None, reason="no Java to ask")
def test_java_reads_the_store(authority: bytes, companies: list[bytes], tmp_path: Path) -> None:
    """Java's own tool lists every certificate as trusted and finds the store's checksum right."""
    path = tmp_path / "cacerts"
    path.write_bytes(trust.java_store([der(authority), *map(der, companies)]))
    argv = [str(KEYTOOL), "-list", "-rfc", "-keystore", str(path), "-storepass", trust.JAVA_PASSWORD]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert said.count("trustedCertEntry") == 3
    assert base64.b64encode(der(authority)).decode()[:60] in said.replace("\n", "")


def test_browsers_are_told_of_all_who_are_added(authority: bytes, companies: list[bytes]) -> None:
    """Firefox takes in each certificate that is laid out for it; every store of NSS is its owner's to change."""
    template = authority + companies[0]
    found = by_path(trust.seeds(companies[0] + companies[1], authority, template))
    policy = found[trust.FIREFOX_POLICIES]
    wanted = json.loads(policy.content)["policies"]["Certificates"]["Install"]
    laid_out = {str(file.path) for file in trust.injected(companies[0] + companies[1], authority, template)}
    assert len(wanted) == 2
    assert laid_out == {*wanted, trust.BUNDLE}
    stores = {path: seed for path, seed in found.items() if path.endswith(".db")}
    assert len(stores) == 2 * len(trust.NSS_STORES)
    assert {path.startswith("/home/agent/") for path, seed in stores.items() if seed.is_agents} == {True}
    assert {seed.seeding for seed in (policy, *stores.values())} == {Seeding.CREATE}
