"""Turns through the cluster: as a client, or directly to the workers, bypassing the router."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence

from benchmarks.harness.samples import Answered
from benchmarks.harness.turns import turn_of
from benchmarks.serving.workload import Prompt
from router.turn.calls import NamedTurn, TurnReserved
from router.turn.links import DecodeLink, WorkerLink
from segue import Client, StopConditions, TokenDelta, TokenInput, TurnEnd
from segue.api.cluster.status import ClusterStatus
from segue.api.types import Role
from segue.security.config import Security

# Nothing here takes this long; a hang becomes an error.
_TIMEOUT_S = 600.0


async def answer(
    client: Client, prompt: Prompt, num_tokens: int, *, session_id: str = ""
) -> Answered:
    token_at: list[float] = []
    token_ids: list[int] = []
    end: TurnEnd | None = None
    stop = StopConditions(max_tokens=num_tokens, ignore_eos=True)
    asked_at = time.monotonic()
    async for event in client.stream(
        TokenInput(prompt), session_id=session_id, stop=stop, timeout_s=_TIMEOUT_S
    ):
        match event:
            case TokenDelta():
                token_at += [time.monotonic()] * len(event.token_ids)
                token_ids += event.token_ids
            case TurnEnd():
                end = event
    return Answered(
        asked_at=asked_at,
        token_at=tuple(token_at),
        token_ids=tuple(token_ids),
        end=end,
    )


async def answer_together(
    client: Client, prompts: Sequence[Prompt], num_tokens: int
) -> list[Answered]:
    return await asyncio.gather(*(answer(client, prompt, num_tokens) for prompt in prompts))


class WithoutRouter:
    """Does only what the router does for a turn: start it on decode, prefill, read."""

    def __init__(self, status: ClusterStatus, security: Security) -> None:
        by_role = {worker.role: worker for worker in status.workers}
        self._writer = by_role[Role.PREFILL]
        self._prefill = WorkerLink(self._writer, security)
        self._decode = DecodeLink(by_role[Role.DECODE], security)

    async def answer(self, prompt: Prompt, num_tokens: int) -> Answered:
        token_at: list[float] = []
        token_ids: list[int] = []
        asked_at = time.monotonic()
        spec = turn_of(uuid.uuid4().hex, prompt, max_tokens=num_tokens)
        turn = NamedTurn(spec.turn_id, spec, prefix=None)
        call = self._decode.start(turn, self._writer, timeout_s=_TIMEOUT_S)
        reserved = await call.read()
        assert isinstance(reserved, TurnReserved)
        async with asyncio.TaskGroup() as tasks:
            prefill = self._prefill.prefill(turn, reserved.ticket, None)
            tasks.create_task(prefill)
            while isinstance(event := await call.read(), TokenDelta):
                token_at += [time.monotonic()] * len(event.token_ids)
                token_ids += event.token_ids
        return Answered(asked_at=asked_at, token_at=tuple(token_at), token_ids=tuple(token_ids))

    async def close(self) -> None:
        await self._prefill.close()
        await self._decode.close()
