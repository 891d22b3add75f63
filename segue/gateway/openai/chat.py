"""`POST /v1/chat/completions`: the answer, whole or as a stream of chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence

from segue.answers import (
    AnswerPart,
    CallAbandoned,
    CallArguments,
    CallStart,
    ContentText,
    ReasoningText,
    gather,
)
from segue.api.cluster.status import ModelInfo
from segue.gateway.http.errors import Json
from segue.gateway.openai.chat_request import ChatRequest
from segue.gateway.openai.chunked import ChunkedAnswer
from segue.gateway.openai.objects import chat_logprobs, ids_in, new_call_id, vllm_prompt_logprobs
from segue.gateway.served import ServedModelCache
from segue.gateway.turns import AnswerStep


class ChatAnswer(ChunkedAnswer):
    def __init__(
        self,
        request: ChatRequest,
        steps: AsyncGenerator[list[AnswerStep], None],
        *,
        model: ModelInfo,
        served: ServedModelCache,
        prompt_ids: Iterable[int] | None,
        request_id: str,
    ) -> None:
        """`prompt_ids`: if the client wants them."""
        super().__init__(
            request,
            steps,
            kind="chat.completion.chunk" if request.stream else "chat.completion",
            answer_id=f"chatcmpl-{request_id}",
            model=model,
            served=served,
            num_choices=request.n or 1,
            has_logprobs=bool(request.logprobs),
        )
        self._num_prompt_logprobs = request.prompt_logprobs
        self._has_reasoning = request.include_reasoning is not False
        if prompt_ids is not None:
            self._beside["prompt_token_ids"] = list(prompt_ids)

    async def _whole_choice(self, step: AnswerStep) -> Json:
        answer = gather(step.parts)
        message: Json = {
            "role": "assistant",
            "content": answer.content if answer.content or not answer.tool_calls else None,
            "refusal": None,
        }
        if answer.reasoning and self._has_reasoning:
            message |= _reasoning(answer.reasoning)
        if answer.tool_calls:
            message["tool_calls"] = [_call(one.name, one.arguments) for one in answer.tool_calls]
        num_top, logprobs = self._num_prompt_logprobs, step.prompt_logprobs
        if num_top is not None and logprobs is not None and step.choice == 0:
            shown = await vllm_prompt_logprobs(logprobs, num_top, self._served)
            self._beside["prompt_logprobs"] = shown
        return await self._shown(step, {"message": message}, has_calls=bool(answer.tool_calls))

    async def _chunk(self, step: AnswerStep) -> Json | None:
        choice = self._choices[step.choice]
        for part in step.parts:
            # A client that streams has the fragments of an abandoned call already.
            choice.num_calls += isinstance(part, CallStart) - isinstance(part, CallAbandoned)
        added = self._added(step.parts)
        has_tokens = bool(step.token_ids) and self._shows_tokens
        if not (added or has_tokens or step.end is not None):
            return None
        delta = added.get("delta", {})
        if not choice.is_started:
            choice.is_started = True
            delta = {"role": "assistant", "content": "", **delta}
        return await self._shown(step, {"delta": delta}, has_calls=choice.num_calls > 0)

    def _added(self, parts: Sequence[AnswerPart]) -> Json:
        delta: Json = {}
        calls: dict[int, Json] = {}
        for part in parts:
            match part:
                case ReasoningText(text) if self._has_reasoning:
                    delta |= _reasoning(delta.get("reasoning", "") + text)
                case ContentText(text):
                    delta["content"] = delta.get("content", "") + text
                case CallStart(index, name):
                    calls[index] = {"index": index, **_call(name, "")}
                case CallArguments(index, text):
                    added = {"index": index, "function": {"arguments": ""}}
                    calls.setdefault(index, added)["function"]["arguments"] += text
        if calls:
            delta["tool_calls"] = list(calls.values())
        return {"delta": delta} if delta else {}

    async def _logprobs(self, step: AnswerStep) -> Json | None:
        if not step.logprobs:
            return None
        return chat_logprobs(step.logprobs, await self._served.token_bytes(ids_in(step.logprobs)))


def _call(name: str, arguments: str) -> Json:
    return {
        "id": new_call_id(),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _reasoning(text: str) -> Json:
    """Under both names: clients read one or the other."""
    return {"reasoning": text, "reasoning_content": text}
