"""Four agents as users install them, run without a terminal and with a private HOME."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# Nothing listens there: an agent's request to any other host than the gateway fails.
_NOWHERE = "http://127.0.0.1:9"
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
_INSTALL_S = 300.0


class Where(NamedTuple):
    """The settings that a client is started with."""

    home: Path
    """Its HOME, with its settings."""
    url: str
    """The gateway's."""
    model: str
    task: str
    resumes: bool = False
    """The task continues the last conversation."""


class Started(NamedTuple):
    arguments: list[str]
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class Agent:
    name: str
    package: str
    """With its version."""
    program: str
    """In node_modules/.bin."""
    start: Callable[[Where], Started]

    def install(self, folder: Path) -> Path:
        """Installs the package with npm unless that has been done. Returns the program. Raises
        RuntimeError."""
        place = folder / self.package.replace("/", "_")
        program = place / "node_modules" / ".bin" / self.program
        if not (place / "installed").exists():
            place.mkdir(parents=True, exist_ok=True)
            options = ("--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
            done = subprocess.run(
                ["npm", "install", "--prefix", str(place), *options, self.package],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_INSTALL_S,
            )
            if done.returncode:
                raise RuntimeError(f"npm cannot install {self.package}:\n{done.stdout}")
            (place / "installed").touch()
        return program

    def command(self, program: Path, where: Where) -> Started:
        """The whole command and environment."""
        started = self.start(where)
        environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(where.home),
            **dict.fromkeys(_PROXIES, _NOWHERE),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
            **started.environment,
        }
        return Started([str(program), *started.arguments], environment)


def _qwen_code(where: Where) -> Started:
    _write(
        where.home / ".qwen" / "settings.json",
        {
            "privacy": {"usageStatisticsEnabled": False},
            "telemetry": {"enabled": False},
            "general": {"disableAutoUpdate": True},
        },
    )
    return Started(
        [
            *("--yolo", "--auth-type", "openai"),
            *_if(where.resumes, "--continue"),
            *("--prompt", where.task),
        ],
        {
            "OPENAI_API_KEY": "none",
            "OPENAI_BASE_URL": f"{where.url}/v1",
            "OPENAI_MODEL": where.model,
            # It would send even requests to loopback there.
            **dict.fromkeys(_PROXIES, ""),
        },
    )


def _opencode(where: Where) -> Started:
    _write(
        where.home / ".config" / "opencode" / "opencode.json",
        {
            "share": "disabled",
            "autoupdate": False,
            "permission": "allow",
            "model": f"segue/{where.model}",
            "provider": {
                "segue": {
                    "npm": "@ai-sdk/openai-compatible",
                    "options": {"baseURL": f"{where.url}/v1", "apiKey": "none"},
                    "models": {where.model: {"reasoning": True, "tool_call": True}},
                }
            },
        },
    )
    return Started(
        ["run", "--auto", *_if(where.resumes, "--continue"), where.task],
        {
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
            "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
        },
    )


def _codex(where: Where) -> Started:
    folder = where.home / ".codex"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(
        f"""model = "{where.model}"
model_provider = "segue"
check_for_update_on_startup = false

[analytics]
enabled = false

[model_providers.segue]
name = "Segue"
base_url = "{where.url}/v1"
wire_api = "responses"
env_key = "SEGUE_KEY"
"""
    )
    return Started(
        [
            *("exec", *_if(where.resumes, "resume", "--last")),
            *("--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", where.task),
        ],
        {"SEGUE_KEY": "none", "CODEX_HOME": str(folder)},
    )


def _claude_code(where: Where) -> Started:
    return Started(
        [
            *("--print", *_if(where.resumes, "--continue")),
            *("--allowedTools", "Bash", "--", where.task),
        ],
        {
            "ANTHROPIC_BASE_URL": where.url,
            "ANTHROPIC_AUTH_TOKEN": "none",
            "ANTHROPIC_MODEL": where.model,
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": where.model,
            "CLAUDE_CONFIG_DIR": str(where.home / ".claude"),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_ERROR_REPORTING": "1",
            "DISABLE_AUTOUPDATER": "1",
        },
    )


def _if(condition: bool, *arguments: str) -> tuple[str, ...]:
    return arguments if condition else ()


def _write(path: Path, settings: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings))


AGENTS = (
    Agent("qwen-code", "@qwen-code/qwen-code@0.15.10", "qwen", _qwen_code),
    Agent("opencode", "opencode-ai@1.18.33", "opencode", _opencode),
    Agent("Codex", "@openai/codex@0.171.0", "codex", _codex),
    Agent("Claude Code", "@anthropic-ai/claude-code@2.1.332", "claude", _claude_code),
)
