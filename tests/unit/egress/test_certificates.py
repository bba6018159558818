"""The installation's authority and the certificates it signs."""

from __future__ import annotations

import multiprocessing
import os
import ssl
import stat
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from sandhold.egress import certificates
from sandhold.egress.certificates import CONTEXTS_MAX, MINTING_BURST, Authority, MintingLimitError
from sandhold.errors import SbxError
from sandhold.model.destination import DomainName, HostService

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier
    from pathlib import Path

    from sandhold.model.destination import Host

NOON = datetime(2031, 5, 1, 12, tzinfo=UTC).timestamp()
DAY = timedelta(days=1).total_seconds()
CREATORS = 6


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority made for the test, by the real clock."""
    return Authority.load_or_create(tmp_path / "authority")


def served(context: ssl.SSLContext, host: str, authority: Authority) -> x509.Certificate:
    """The certificate that a strict client accepts from this context in that name, over a pair of memory buffers."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    trusting = ssl.create_default_context(cadata=authority.certificate_pem.decode())
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    client = trusting.wrap_bio(to_client, to_server, server_hostname=host)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    der = client.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def create(folder: Path, barrier: Barrier, results: multiprocessing.SimpleQueue[bytes]) -> None:
    """Make or load the authority at the same moment as others."""
    barrier.wait(timeout=30)
    results.put(Authority.load_or_create(folder).certificate_pem)


def test_creators_at_the_same_time_get_the_same_authority(tmp_path: Path) -> None:
    """However many processes start first, one authority is made, all use it, and nothing is left beside it."""
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.SimpleQueue[bytes] = context.SimpleQueue()
    barrier = context.Barrier(CREATORS)
    folder = tmp_path / "state" / "authority"
    creators = [context.Process(target=create, args=(folder, barrier, results)) for _ in range(CREATORS)]
    for creator in creators:
        creator.start()
    for creator in creators:
        creator.join(timeout=60)

    assert [creator.exitcode for creator in creators] == [0] * CREATORS
    assert len({results.get() for _ in creators}) == 1
    assert [path.name for path in folder.parent.iterdir()] == ["authority"]
    for creator in creators:
        creator.close()
    results.close()


def test_the_key_is_private_and_the_only_one_on_disk(tmp_path: Path, authority: Authority) -> None:
    """Folder 0700, key 0600, and no key of a leaf is ever written."""
    authority.context_for(DomainName("example.com"))
    folder = tmp_path / "authority"

    assert sorted(path.name for path in tmp_path.rglob("*")) == ["authority", "certificate.pem", "key.pem"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    assert b"PRIVATE" not in (folder / "certificate.pem").read_bytes()


def test_the_authority_lasts(tmp_path: Path, authority: Authority) -> None:
    """The second start uses what the first one made, so that sandboxes go on trusting it."""
    again = Authority.load_or_create(tmp_path / "authority")

    assert again.certificate_pem == authority.certificate_pem
    assert b"PRIVATE" not in authority.certificate_pem


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    """A folder that somebody made beforehand is no obstacle."""
    (tmp_path / "authority").mkdir()

    assert Authority.load_or_create(tmp_path / "authority").certificate_pem.startswith(b"-----BEGIN CERTIFICATE")


def _open_up(folder: Path) -> None:
    (folder / "key.pem").chmod(0o640)


def _cut(folder: Path) -> None:
    os.truncate(folder / "key.pem", 60)


def _exchange_key(folder: Path) -> None:
    other = folder.parent / "other"
    Authority.load_or_create(other)
    (other / "key.pem").rename(folder / "key.pem")


def _link_key(folder: Path) -> None:
    (folder / "key.pem").rename(folder.parent / "elsewhere.pem")
    (folder / "key.pem").symlink_to(folder.parent / "elsewhere.pem")


SPOILT = {
    "others can read the key": _open_up,
    "the key is cut short": _cut,
    "the key is another one's": _exchange_key,
    "the key is a symbolic link": _link_key,
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_what_cannot_be_trusted_is_not_used(tmp_path: Path, authority: Authority, spoil: object) -> None:
    """A spoilt authority is reported with what to do, and neither used nor replaced in silence."""
    assert callable(spoil)
    spoil(tmp_path / "authority")

    with pytest.raises(SbxError, match="cannot be used") as caught:
        Authority.load_or_create(tmp_path / "authority")
    assert caught.value.hint is not None
    assert (tmp_path / "authority" / "certificate.pem").read_bytes() == authority.certificate_pem


def test_an_authority_that_expires_is_not_used(tmp_path: Path) -> None:
    """Ten years on, the person is told, instead of every client inside failing."""
    Authority.load_or_create(tmp_path / "authority", lambda: NOON)

    with pytest.raises(SbxError, match="expires"):
        Authority.load_or_create(tmp_path / "authority", lambda: NOON + 3649 * DAY)


def test_the_authority_signs_nothing_but_leaves(authority: Authority) -> None:
    """The certificate is an authority's with no authorities below it, for signing certificates only."""
    certificate = x509.load_pem_x509_certificate(authority.certificate_pem)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest

    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    assert certificate.subject.rfc4514_string() == f"CN=sandhold authority {identifier.hex()[:8]}"


HOSTS: dict[str, tuple[Host, list[str]]] = {
    "a name": (DomainName("example.com"), ["example.com"]),
    "a name with an underscore": (DomainName("_x.example.com"), ["_x.example.com"]),
    "a name too long for a common name": (
        DomainName(".".join(["a" * 63] * 3 + ["test"])),
        [".".join(["a" * 63] * 3 + ["test"])],
    ),
    "an IPv4 address": (IPv4Address("203.0.113.9"), ["203.0.113.9"]),
    "an IPv6 address": (IPv6Address("2001:db8::9"), ["2001:db8::9"]),
    "the user's machine": (HostService(), ["localhost", "host.docker.internal", "host.sbx.internal"]),
}


@pytest.mark.parametrize(("host", "spellings"), HOSTS.values(), ids=HOSTS)
def test_a_strict_client_accepts_the_leaf_for_that_host_alone(
    authority: Authority, host: Host, spellings: list[str]
) -> None:
    """The rules of RFC 5280 hold to the letter, the host fits, and any other host does not."""
    context = authority.context_for(host)

    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        served(context, "other.example.com", authority)
    for spelling in spellings:
        leaf = served(context, spelling, authority)
        assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(days=8)


def test_no_other_authority_is_accepted(tmp_path: Path, authority: Authority) -> None:
    """A client that trusts one installation does not trust another."""
    other = Authority.load_or_create(tmp_path / "other")

    with pytest.raises(ssl.SSLCertVerificationError):
        served(other.context_for(DomainName("example.com")), "example.com", authority)


def test_contexts_are_for_current_tls_alone(authority: Authority) -> None:
    """No old version, no renegotiation, no tickets."""
    context = authority.context_for(DomainName("example.com"))

    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_TICKET
    assert context.num_tickets == 0


def test_a_context_is_made_once_and_renewed_before_it_expires(tmp_path: Path) -> None:
    """A session that runs for weeks never answers with an expired certificate."""
    moment = NOON
    authority = Authority.load_or_create(tmp_path / "authority", lambda: moment)
    first = authority.context_for(DomainName("example.com"))

    moment += 5 * DAY
    assert authority.context_for(DomainName("example.com")) is first
    moment += 2 * DAY
    assert authority.context_for(DomainName("example.com")) is not first


def test_new_names_are_limited_and_known_ones_are_not(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of names ends in an error at once, and names that have a context still work."""
    monkeypatch.setattr(certificates, "MINTING_RATE", 0.0)
    monkeypatch.setattr(certificates, "MINTING_BURST", 3)
    limited = Authority(authority._key, authority._certificate)  # noqa: SLF001  the same authority, another limit
    known = [limited.context_for(DomainName(f"n{number}.test")) for number in range(3)]

    with pytest.raises(MintingLimitError):
        limited.context_for(DomainName("one-more.test"))
    assert limited.context_for(DomainName("n0.test")) is known[0]


def test_contexts_are_bounded(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recently used context goes when there are too many."""
    monkeypatch.setattr(certificates, "CONTEXTS_MAX", 2)
    first = authority.context_for(DomainName("a.test"))
    second = authority.context_for(DomainName("b.test"))
    assert authority.context_for(DomainName("a.test")) is first
    authority.context_for(DomainName("c.test"))

    assert authority.context_for(DomainName("a.test")) is first
    assert authority.context_for(DomainName("b.test")) is not second


def test_the_limits_leave_room_for_one_burst() -> None:
    """Names asked for in one burst stay cached."""
    assert MINTING_BURST <= CONTEXTS_MAX
