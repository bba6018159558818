"""Stores that NSS's own programs read, trust and go on with."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

from sandhold.egress.certificates import Authority
from sandhold.session.furnish.certificate import read_certificate
from sandhold.session.furnish.nss_store import certificate_store, key_store
from tests.tools.company import Company

if TYPE_CHECKING:
    from pathlib import Path

TOOL_S_MAX = 20.0

pytestmark = pytest.mark.skipif(shutil.which("certutil") is None, reason="no `certutil` (Debian: libnss3-tools)")


@pytest.fixture
def company(tmp_path: Path) -> Company:
    """Make a company's authority."""
    return Company(tmp_path)


@pytest.fixture
def store(tmp_path: Path, company: Company) -> Path:
    """Write a store that trusts our authority and the company's."""
    ours = Authority.load_or_create(tmp_path / "authority").certificate_pem
    folder = tmp_path / "nssdb"
    folder.mkdir()
    known = [read_certificate(ssl.PEM_cert_to_DER_cert(pem.decode())) for pem in (ours, company.root_pem)]
    (folder / "cert9.db").write_bytes(certificate_store(known))
    (folder / "key4.db").write_bytes(key_store())
    return folder


def nss(program: str, store: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one of NSS's programs on a store; it has nobody to ask."""
    argv = [program, "-d", f"sql:{store}", *words]
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TOOL_S_MAX, check=False
    )


def trusted(store: Path) -> list[str]:
    """Return the names of those that the store trusts to sign for servers, and for nothing else."""
    lines = nss("certutil", store, "-L").stdout.splitlines()
    return [line.removesuffix("C,,").strip() for line in map(str.strip, lines) if line.endswith("C,,")]


def chain(store: Path, company: Company) -> str:
    """Say what NSS says of a server's certificate that the company has signed."""
    server = company.server_pem.decode()
    (store.parent / "server.pem").write_text(server)
    done = nss("vfychain", store, "-pp", "-u", "1", "-a", str(store.parent / "server.pem"))
    return done.stdout + done.stderr


def test_an_authority_signs_for_servers(store: Path, company: Company) -> None:
    """Both authorities are valid as such, and a server's certificate of one of them is good; without them it is not."""
    (store.parent / "empty").mkdir()
    (store.parent / "empty" / "cert9.db").write_bytes(certificate_store([]))
    (store.parent / "empty" / "key4.db").write_bytes(key_store())
    assert "Chain is bad" in chain(store.parent / "empty", company)
    names = trusted(store)
    assert len(names) == 2
    for name in names:
        assert "is valid" in nss("certutil", store, "-V", "-u", "L", "-n", name).stdout
    assert "Chain is good" in chain(store, company)


def test_nothing_else_is_trusted_to_it(store: Path) -> None:
    """An authority is none for mail or for code."""
    for name in trusted(store):
        listed = nss("certutil", store, "-L", "-n", name).stdout
        assert "SSL Flags" in listed
        assert "Trusted CA" not in listed.partition("Email Flags")[2]


def test_a_store_that_nobody_may_write_is_read(store: Path, company: Company) -> None:
    """A reader needs no right to write."""
    for file in store.iterdir():
        file.chmod(0o444)
    store.chmod(0o555)
    assert "Chain is good" in chain(store, company)


@pytest.mark.parametrize("sets_password", [True, False], ids=["with a password", "without"])
def test_its_owner_goes_on_with_it(store: Path, company: Company, tmp_path: Path, *, sets_password: bool) -> None:
    """`certutil` takes it for a new store that it may set up, adds to it, and what was trusted still is."""
    (tmp_path / "other").mkdir()
    (tmp_path / "root.pem").write_bytes(Company(tmp_path / "other").root_pem)
    if sets_password:
        assert nss("certutil", store, "-N", "--empty-password").returncode == 0
    added = nss("certutil", store, "-A", "-n", "another", "-t", "C,,", "-i", str(tmp_path / "root.pem"))
    assert added.returncode == 0, added.stderr
    assert len(trusted(store)) == 3
    assert "Chain is good" in chain(store, company)
