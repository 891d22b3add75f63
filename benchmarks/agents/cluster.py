"""A cluster of plain processes whose answers are scripted, behind a gateway in this process that
keeps what each turn was asked and what it cost.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.processes import process_cluster
from benchmarks.load.measure import until_ready
from segue.api.turn import TokenDelta, TurnEnd, TurnEvent, TurnStarted
from segue.api.types import TurnInput, TurnRequest
from segue.gateway.__main__ import running_before
from segue.gateway.config import GatewayConfig
from segue.sdk.client import Client
from tests.real_vocabulary import save_real_checkpoint, template

_MAX_CONTEXT = 131_072
# One thread each: two workers and a client share two cores.
_SETTINGS = """
[engine]
num_threads = 1
cache_bytes = 536870912
max_running = 8
[prefill]
chunk_tokens = 2048
"""


@dataclass(slots=True, kw_only=True)
class Turn:
    """One request of an agent, as the gateway passed it on."""

    turn_input: TurnInput
    session_id: str = ""
    prompt_tokens: int = 0
    text: str = ""
    end: TurnEnd | None = None
    """None if the turn failed."""


class KeepingClient(Client):
    """Keeps every turn, in one list with the clients that it makes for other keys."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.turns: list[Turn] = []

    async def follow(
        self, request: TurnRequest, **options: Any
    ) -> AsyncGenerator[list[TurnEvent], None]:
        turn = Turn(turn_input=request.input)
        self.turns.append(turn)
        async with contextlib.aclosing(super().follow(request, **options)) as arriving:
            async for events in arriving:
                for event in events:
                    match event:
                        case TurnStarted():
                            turn.session_id = event.session_id
                            turn.prompt_tokens = event.prompt_tokens
                        case TokenDelta():
                            turn.text += event.text
                        case TurnEnd():
                            turn.end = event
                yield events


@dataclass(frozen=True, slots=True)
class ScriptedCluster:
    url: str
    """The gateway's."""
    model: str
    _client: KeepingClient = field(repr=False)

    def take_turns(self) -> list[Turn]:
        """The turns since the last call, in order of arrival."""
        turns = list(self._client.turns)
        self._client.turns.clear()
        return turns


@contextlib.asynccontextmanager
async def scripted_cluster(model: Path) -> AsyncIterator[ScriptedCluster]:
    """One prefill and one decode worker with the script's answers (`script.py`)."""
    with process_cluster(
        str(model),
        _SETTINGS,
        worker_command=("benchmarks.agents.scripted_worker",),
    ) as processes:
        async with (
            KeepingClient(processes.address) as client,
            running_before(client, GatewayConfig(port=0)) as gateway,
        ):
            await until_ready(client, len(processes.workers))
            info = await client.model()
            yield ScriptedCluster(f"http://{gateway.address}", info.name, client)


def save_agents_checkpoint(folder: Path, *, kind: str, cache: Path) -> Path:
    """A tiny model behind the real vocabulary and the chat template of `kind`
    (tests/real_templates.py), with a context that agents' prompts fit into."""
    save_real_checkpoint(folder, template(kind), cache=cache)
    config = folder / "config.json"
    changed = {**json.loads(config.read_text()), "max_position_embeddings": _MAX_CONTEXT}
    config.write_text(json.dumps(changed))
    return folder
