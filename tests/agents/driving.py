"""How each agent is pointed at the scripted model, as its own manual says, and put to work in a sandbox of ours."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sandhold.agents.definitions import load_agent
from tests.agents.modelserver import MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.agents.modelserver import ModelServer
    from tests.installation import Done, Installation

KEY: Final = "sk-scripted-3f9c1d7a"  # what must never stand in a record
HOST_INSIDE: Final = "host.docker.internal"

_CODEX_PROVIDER: Final = "{{ name='local', base_url='{url}/v1', wire_api='responses', env_key='{key}' }}"
_OPENCODE: Final = {
    "provider": {
        "local": {
            "npm": "@ai-sdk/openai-compatible",
            "options": {"baseURL": "{url}/v1", "apiKey": "{env:LOCAL_KEY}"},
            "models": {MODEL: {}},
        }
    }
}


@dataclass(frozen=True, slots=True)
class Pointing:
    """What points an agent at a model: `words` after its command line, `variables`, and `key`, the variable of its key.

    `{url}` stands for where the model is. `prints_results` says whether the agent prints what its tools printed.
    """

    key: str
    words: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    prints_results: bool = True


AGENTS: Final[Mapping[str, Pointing]] = {
    "codex": Pointing(
        key="LOCAL_KEY",
        words=(
            *("-c", f"model='{MODEL}'"),
            *("-c", "model_provider='local'"),
            *("-c", "model_providers.local=" + _CODEX_PROVIDER.format(url="{url}", key="LOCAL_KEY")),
            *("-c", "features.plugins=false"),  # else it looks for a catalogue of them at its maker's
            *("-c", "features.apps=false"),
        ),
    ),
    "claude": Pointing(
        key="ANTHROPIC_API_KEY",
        words=("--verbose", "--output-format", "stream-json"),
        variables={"ANTHROPIC_BASE_URL": "{url}"},
    ),
    "opencode": Pointing(
        key="LOCAL_KEY",
        words=("-m", f"local/{MODEL}"),
        variables={"OPENCODE_CONFIG_CONTENT": json.dumps(_OPENCODE), "OPENCODE_DISABLE_MODELS_FETCH": "1"},
    ),
    "gemini": Pointing(
        key="GEMINI_API_KEY",
        words=("-m", "gemini-2.5-flash"),  # else it first asks a model which model to ask
        variables={"GOOGLE_GEMINI_BASE_URL": "{url}"},
        prints_results=False,
    ),
    "copilot": Pointing(
        key="COPILOT_PROVIDER_API_KEY",
        variables={
            "COPILOT_PROVIDER_BASE_URL": "{url}/v1",
            "COPILOT_MODEL": MODEL,
            "COPILOT_OFFLINE": "true",
        },
    ),
}


@dataclass(frozen=True, slots=True)
class AgentSandbox:
    """A sandbox with an agent in it that can reach the scripted model."""

    sbx: Installation
    """With the key in its user's environment."""
    name: str
    agent: str
    url: str

    @property
    def words(self) -> tuple[str, ...]:
        """What comes after the agent's own command line."""
        return tuple(word.replace("{url}", self.url) for word in AGENTS[self.agent].words)

    def ask(self, prompt: str) -> Done:
        """Let the agent work on a prompt without a terminal, to its end."""
        command = load_agent(self.agent, self.sbx.home / "config" / "sandhold" / "agents").headless_command(prompt)
        return self.sbx("exec", self.name, *command, *self.words)

    def asked_of_model(self) -> list[str]:
        """Return method and path of each request to the model on record, in the order of the trail."""
        return [
            f"{record['method']} {record['path']}"
            for record in self.sbx.records(self.name)
            if record["kind"] == "request" and record["host"] == HOST_INSIDE
        ]

    def everything_on_record(self) -> str:
        """Return all that we have written about the sandbox: its trail and the log of its sessions."""
        records: list[dict[str, Any]] = self.sbx.records(self.name)
        return json.dumps(records) + self.sbx.ok("logs", self.name)


def open_agent_sandbox(sbx: Installation, project: Path, agent: str, model: ModelServer) -> AgentSandbox:
    """Make a sandbox for an agent, with a key that is passed by name and a rule for the model's port."""
    pointing = AGENTS[agent]
    variables = {name: value.replace("{url}", model.url) for name, value in pointing.variables.items()}
    given = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
    with_key = dataclasses.replace(sbx, extra={**sbx.extra, pointing.key: KEY})
    if any(each["name"] == agent and each["outdated"] for each in json.loads(sbx.ok("template", "ls", "--json"))):
        sbx.ok("template", "build", agent)  # kept from a run before its file changed
    name = f"{agent}-lab"
    with_key.ok("create", "--name", name, *given, "-e", pointing.key, agent, ".", folder=project)
    sbx.ok("policy", "allow", "network", f"localhost:{model.port}", "--sandbox", name)
    return AgentSandbox(with_key, name, agent, model.url)
