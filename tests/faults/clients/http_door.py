"""Sessions over the gateway, with OpenAI's own client."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import openai

from segue.api.turn import FinishReason, TokenDelta, TurnEnd, TurnEvent
from segue.api.types import SamplingParams
from tests.faults.clients.workload import NUM_SESSIONS, STOP


class HttpDoor:
    """Satisfies `Door`. A chat completion is a turn; the client keeps the messages."""

    def __init__(self, client: openai.AsyncOpenAI, model: str, salt: str) -> None:
        self._client = client
        self._model = model
        self._salt = salt
        self._messages: list[list[Any]] = [[] for _ in range(NUM_SESSIONS)]

    @contextlib.asynccontextmanager
    async def turn(
        self, session: int, text: str, sampling: SamplingParams
    ) -> AsyncIterator[AsyncIterator[TurnEvent]]:
        messages = [*self._messages[session], {"role": "user", "content": text}]
        stream = await self._client.chat.completions.create(
            model=self._model,
            messages=messages,
            stream=True,
            max_tokens=STOP.max_tokens,
            temperature=sampling.temperature,
            frequency_penalty=sampling.frequency_penalty,
            seed=sampling.seed,
            extra_body={
                "top_k": sampling.top_k,
                "ignore_eos": STOP.ignore_eos,
                "return_token_ids": True,
                "cache_salt": self._salt,
            },
        )
        async with stream:
            yield self._events(session, messages, stream)

    async def _events(
        self, session: int, messages: list[Any], stream: openai.AsyncStream[Any]
    ) -> AsyncIterator[TurnEvent]:
        said: list[str] = []
        async for chunk in stream:
            for choice in chunk.choices:
                text = choice.delta.content or ""
                said.append(text)
                yield TokenDelta(token_ids=tuple(getattr(choice, "token_ids", ()) or ()), text=text)
                if choice.finish_reason:
                    answer = {"role": "assistant", "content": "".join(said)}
                    self._messages[session] = [*messages, answer]
                    yield TurnEnd(finish_reason=FinishReason(choice.finish_reason))
