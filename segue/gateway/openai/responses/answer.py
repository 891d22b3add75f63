"""The response, whole or as a stream of events."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from segue.api.turn import FinishReason, TurnEnd
from segue.api.types import SampledToken
from segue.gateway.http.answer import GatewayAnswer
from segue.gateway.http.errors import Failure, Json
from segue.gateway.http.stream import PING, event
from segue.gateway.openai.objects import chat_logprobs, ids_in, total_usage
from segue.gateway.openai.responses.output import Output, TextDelta
from segue.gateway.openai.responses.request import ResponseRequest
from segue.gateway.openai.responses.tools import ResponseTools
from segue.gateway.served import ServedModelCache
from segue.gateway.turns import AnswerStep

_FIRST = ("created", "in_progress")


class ResponseAnswer(GatewayAnswer):
    def __init__(
        self,
        request: ResponseRequest,
        steps: AsyncGenerator[list[AnswerStep], None],
        *,
        tools: ResponseTools,
        served: ServedModelCache,
        model: str,
        request_id: str,
        keep: Callable[[Json], Awaitable[None]],
    ) -> None:
        """`keep` is called with the finished response before the client has all of it."""
        super().__init__(steps)
        self._keep = keep
        self._has_logprobs = request.has_logprobs
        self._served = served
        self._output = Output(tools, is_encrypted=request.has_encrypted)
        self._sequence_number = 0
        self._is_started = False
        self._response: Json = {
            "id": f"resp_{request_id}",
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": [],
            "usage": None,
            **request.echoed(),
        }

    async def whole(self) -> Json:
        (step,) = await self._all_steps()
        assert step.end is not None, "an answer without an end"
        await self._add_logprobs(step.logprobs)
        for part in step.parts:
            _consume(self._output.add(part))
        _consume(self._end(step.end))
        await self._keep(self._response)
        return self._response

    async def _events_of(self, steps: list[AnswerStep]) -> list[bytes]:
        events: list[bytes] = []
        if not self._is_started and any(step.parts or step.end for step in steps):
            events.append(self.waiting())
        for step in steps:
            await self._add_logprobs(step.logprobs)
            for part in step.parts:
                events += map(self._written, self._output.add(part))
            if step.end is not None:
                events += map(self._written, self._end(step.end))
                await self._keep(self._response)
        return events

    def waiting(self) -> bytes:
        """Keeps the stream alive: sends its first events, and then comments."""
        if self._is_started:
            return PING
        self._is_started = True
        return b"".join(self._written(self._lifecycle(name)) for name in _FIRST)

    def failed(self, failure: Failure) -> bytes:
        _consume(self._output.close("incomplete"))
        code = failure.code or ("invalid_prompt" if failure.status == 400 else "server_error")
        self._response |= {
            "status": "failed",
            "error": {"code": code, "message": failure.message},
            "output": self._output.items,
        }
        return self._written(self._lifecycle("failed"))

    def _end(self, end: TurnEnd) -> Iterator[Json]:
        is_cut = end.finish_reason is FinishReason.LENGTH
        status = "incomplete" if is_cut else "completed"
        yield from self._output.close(status)
        self._response |= {
            "status": status,
            "output": self._output.items,
            "usage": _usage(end),
        }
        if is_cut:
            self._response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self._response["completed_at"] = int(time.time())
        yield self._lifecycle(status)

    def _lifecycle(self, name: str) -> Json:
        return {"type": f"response.{name}", "response": self._response}

    def _written(self, payload: Json | TextDelta) -> bytes:
        number = self._sequence_number
        self._sequence_number += 1
        if isinstance(payload, TextDelta):
            return payload.event(number)
        return event(payload["type"], {"sequence_number": number, **payload})

    async def _add_logprobs(self, tokens: Sequence[SampledToken]) -> None:
        if self._has_logprobs and tokens:
            texts = await self._served.token_bytes(ids_in(tokens))
            self._output.add_logprobs(chat_logprobs(tokens, texts)["content"])


def _consume(events: Iterable[Any]) -> None:
    for _ in events:
        pass


def _usage(end: TurnEnd) -> Json:
    usage = total_usage([end], per_prompt=1)
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
