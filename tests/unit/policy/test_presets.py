"""The five default groups, as they are shipped, and the refusal of a file that is not quite right."""

from __future__ import annotations

import tomllib
from importlib.resources import files

import pytest

from sandhold.model.destination import Destination, DomainName, Source
from sandhold.model.rule import Effect, Generation, NamePattern, Origin, Policy, PortRange, Posture
from sandhold.policy.decide import decide
from sandhold.policy.index import PolicyIndex
from sandhold.policy.presets import parse_presets

SHIPPED = files("sandhold.policy").joinpath("presets.toml").read_text(encoding="utf-8")
RULES = parse_presets(SHIPPED)
GROUPS = (
    "default-ai-services",
    "default-package-managers",
    "default-code-and-containers",
    "default-cloud-infrastructure",
    "default-os-packages",
)
GROUP = 'purpose = "a purpose"\nhosts = [{entry}]'


def test_the_five_groups_are_there() -> None:
    """The file holds exactly the five groups, in the order in which they are shown."""
    assert tuple(dict.fromkeys(rule.name for rule in RULES)) == GROUPS
    assert len(RULES) > 100


def test_every_rule_allows_names_on_web_ports() -> None:
    """A default group allows, on port 443, and on port 80 only among the system repositories."""
    for rule in RULES:
        assert rule.effect is Effect.ALLOW
        assert rule.origin is Origin.PRESET
        assert rule.id == rule.name
        assert isinstance(rule.pattern, NamePattern)
        assert PortRange(443, 443) in rule.ports
        others = [ports for ports in rule.ports if ports != PortRange(443, 443)]
        assert not others or (others == [PortRange(80, 80)] and rule.name == "default-os-packages")


def test_every_entry_states_its_purpose_and_every_wildcard_its_reason() -> None:
    """No host is in the file without saying what for, and no wildcard without saying why."""
    for group in tomllib.loads(SHIPPED).values():
        for entry in group["hosts"]:
            assert len(entry["purpose"]) > 5
            assert ("*" in entry["host"]) == ("reason" in entry)


HOSTING = ("storage.googleapis.com", "blob.core.windows.net", "cloudfront.net", "vercel.app", "pkg.dev", "github.io")


def test_no_group_opens_a_host_where_anybody_can_get_a_name() -> None:
    """Names that a stranger could register below the providers' domains are not allowed by the default groups."""
    index = PolicyIndex(Policy(Generation(1), Posture.BALANCED, RULES), None)
    strangers = [f"stranger.{domain}" for domain in HOSTING]
    strangers += [*HOSTING, "sts.s3.amazonaws.com", "oidc.s3-us-west-2.amazonaws.com", "evil.s3.amazonaws.com"]
    strangers += ["bedrock-runtime.s3.amazonaws.com", "cloudformation.s3-ap-east-1.amazonaws.com", "x.openai.azure.com"]

    for name in strangers:
        assert not decide(index, Destination(DomainName(name), 443, Source.DNS), 0.0).is_allowed, name


def test_what_a_first_hour_of_work_needs_is_open() -> None:
    """The package indexes, their file hosts, the code hosts and the system repositories are allowed."""
    index = PolicyIndex(Policy(Generation(1), Posture.BALANCED, RULES), None)
    needed = {
        443: (
            *("pypi.org", "files.pythonhosted.org", "registry.npmjs.org", "index.crates.io", "static.crates.io"),
            *("rubygems.org", "proxy.golang.org", "sum.golang.org", "repo1.maven.org", "github.com", "ghcr.io"),
            *("registry-1.docker.io", "api.anthropic.com", "api.openai.com", "sts.us-east-1.amazonaws.com"),
        ),
        80: ("deb.debian.org", "security.debian.org", "archive.ubuntu.com", "de.archive.ubuntu.com"),
    }

    for port, names in needed.items():
        for name in names:
            assert decide(index, Destination(DomainName(name), port, Source.DNS), 0.0).is_allowed, name


BROKEN = {
    "no TOML": ("[", ""),
    "a group by another name": ("[mine]\n" + GROUP.format(entry=""), "mine"),
    "a value outside every group": ('default-x = "y"', "default-x"),
    "a group without a purpose": ('[default-x]\nhosts = [{host = "a.test", purpose = "p"}]', "default-x"),
    "a group without hosts": ('[default-x]\npurpose = "p"', "default-x"),
    "an empty list of hosts": ('[default-x]\npurpose = "p"\nhosts = []', "default-x"),
    "a host that is no table": ('[default-x]\npurpose = "p"\nhosts = ["a.test"]', "default-x"),
    "an unknown key of a group": ('[default-x]\npurpose = "p"\nhost = []', "host"),
}
BROKEN_ENTRIES = {
    "an unknown key": ('{host = "a.test", purpose = "p", port = 80}', "a.test`: unknown key `port`"),
    "no host": ('{purpose = "p"}', "host 1"),
    "no purpose": ('{host = "a.test"}', "a.test` has no `purpose`"),
    "an empty purpose": ('{host = "a.test", purpose = " "}', "a.test` has no `purpose`"),
    "a wildcard without a reason": ('{host = "*.a.test", purpose = "p"}', "*.a.test` has no `reason`"),
    "a reason without a wildcard": ('{host = "a.test", purpose = "p", reason = "r"}', "a.test"),
    "a port in the host": ('{host = "a.test:80", purpose = "p"}', "a.test:80"),
    "an address": ('{host = "10.0.0.1", purpose = "p"}', "10.0.0.1"),
    "the user's machine": ('{host = "localhost", purpose = "p"}', "localhost"),
    "everything": ('{host = "**", purpose = "p", reason = "r"}', "**"),
    "a whole top-level domain": ('{host = "*.test", purpose = "p", reason = "r"}', "*.test"),
    "capitals": ('{host = "A.test", purpose = "p"}', "A.test"),
    "a port that is none": ('{host = "a.test", purpose = "p", ports = [0]}', "a.test"),
    "a port that is a text": ('{host = "a.test", purpose = "p", ports = ["443"]}', "a.test"),
    "a port that is true": ('{host = "a.test", purpose = "p", ports = [true]}', "a.test"),
    "no port": ('{host = "a.test", purpose = "p", ports = []}', "a.test"),
    "a host twice": ('{host = "a.test", purpose = "p"}, {host = "a.test", purpose = "q"}', "a.test"),
}
BROKEN |= {
    sentence: ("[default-x]\n" + GROUP.format(entry=entry), named)
    for sentence, (entry, named) in BROKEN_ENTRIES.items()
}


@pytest.mark.parametrize(("text", "named"), BROKEN.values(), ids=BROKEN.keys())
def test_a_file_that_breaks_the_grammar_is_refused_by_name(text: str, named: str) -> None:
    """A file with an unknown key, a missing one or a host outside the grammar is refused, and the entry is named."""
    with pytest.raises(ValueError) as refusal:
        parse_presets(text)

    assert named in str(refusal.value)


def test_a_well_formed_file_is_read() -> None:
    """The smallest file gives one rule, on port 443 unless it says otherwise."""
    plain, ported = parse_presets(
        "[default-x]\n"
        + GROUP.format(entry='{host = "a.test", purpose = "p"}, {host = "b.test", purpose = "p", ports = [80, 443]}')
    )

    assert (plain.name, plain.resource, plain.ports) == ("default-x", "a.test:443", (PortRange(443, 443),))
    assert (ported.resource, len(ported.ports)) == ("b.test:80,b.test:443", 2)
