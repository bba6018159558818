"""The session's way to the authority's certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandhold.egress.certificates import Authority
from sandhold.errors import SbxError
from sandhold.linux.spares import Spares
from sandhold.session.children.authority import AUTHORITY_PROGRAM, AuthorityCheck
from sandhold.session.furnish.trust import written_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandhold.linux.process import Spawn


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start the program as a session does."""
    with Spares() as spares:
        spares.make([AUTHORITY_PROGRAM])
        yield spares.spawn


def test_one_that_is_not_there_is_made(tmp_path: Path, spawn: Spawn) -> None:
    """Where there is no authority one is made, and its certificate stands there from then on."""
    folder = tmp_path / "authority"
    assert written_certificate(folder) is None
    with AuthorityCheck.start(spawn, folder) as authority:
        certificate = authority.certificate()
        authority.confirm(certificate)
    assert written_certificate(folder) == certificate


def test_one_that_was_replaced(tmp_path: Path, spawn: Spawn) -> None:
    """A certificate that was read before is not taken for that of another authority."""
    Authority.load_or_create(tmp_path / "old")
    Authority.load_or_create(tmp_path / "new")
    expected = written_certificate(tmp_path / "old")
    assert expected is not None
    with (
        AuthorityCheck.start(spawn, tmp_path / "new") as authority,
        pytest.raises(SbxError, match="was replaced while a sandbox started"),
    ):
        authority.confirm(expected)


def test_one_that_cannot_be_used(tmp_path: Path, spawn: Spawn) -> None:
    """A certificate that stands there well is not confirmed when its key cannot be used."""
    folder = tmp_path / "authority"
    Authority.load_or_create(folder)
    expected = written_certificate(folder)
    assert expected is not None
    (folder / "key.pem").chmod(0o640)
    with AuthorityCheck.start(spawn, folder) as authority, pytest.raises(SbxError, match="readable by others"):
        authority.confirm(expected)


BROKEN = {
    "it is cut short": lambda pem: pem[:100],
    "it is two": lambda pem: pem * 2,
    "words stand before it": lambda pem: b"subject: sandhold\n" + pem,
    "its lines end otherwise": lambda pem: pem.replace(b"\n", b"\r\n"),
    "it is no certificate": lambda _: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "it is empty": lambda _: b"",
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_what_is_left_to_a_closer_look(tmp_path: Path, broken: Callable[[bytes], bytes]) -> None:
    """Only a certificate as we write them is used before the authority is known to be usable."""
    certificate = Authority.load_or_create(tmp_path / "authority").certificate_pem
    file = tmp_path / "authority" / "certificate.pem"
    assert written_certificate(tmp_path / "authority") == certificate
    file.write_bytes(broken(certificate))
    assert written_certificate(tmp_path / "authority") is None
