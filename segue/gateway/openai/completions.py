"""`POST /v1/completions`: continues a text, without a chat template."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace

from segue.answers import AnswerPart, ContentText
from segue.api.cluster.status import ModelInfo
from segue.api.turn import FinishReason, Usage
from segue.gateway.http.errors import Json
from segue.gateway.openai.chunked import ChunkedAnswer
from segue.gateway.openai.completion_request import CompletionRequest
from segue.gateway.openai.objects import (
    ids_in,
    legacy_logprobs,
    legacy_prompt_logprobs,
    token_text,
    vllm_prompt_logprobs,
)
from segue.gateway.served import ServedModelCache
from segue.gateway.turns import AnswerStep


@dataclass(frozen=True, slots=True)
class ShownPrompt:
    """The parts of a prompt that the request wants in its answer."""

    text: str
    ids: list[int]


class CompletionAnswer(ChunkedAnswer):
    def __init__(
        self,
        request: CompletionRequest,
        steps: AsyncGenerator[list[AnswerStep], None],
        *,
        model: ModelInfo,
        served: ServedModelCache,
        prompts: Sequence[ShownPrompt],
        request_id: str,
    ) -> None:
        super().__init__(
            request,
            steps,
            kind="text_completion",
            answer_id=f"cmpl-{request_id}",
            model=model,
            served=served,
            num_choices=len(prompts) * (request.n or 1),
            has_logprobs=request.logprobs is not None,
        )
        self._request = request
        self._prompts = prompts

    async def _whole_choice(self, step: AnswerStep) -> Json:
        return await self._piece(self._kept(step))

    async def _chunk(self, step: AnswerStep) -> Json | None:
        step = self._kept(step)
        is_empty = not (step.parts or step.token_ids or step.prompt_logprobs or step.end)
        return None if is_empty else await self._piece(step)

    async def _piece(self, step: AnswerStep) -> Json:
        choice = self._choices[step.choice]
        if choice.is_started:
            return await self._shown(step, self._added(step.parts))
        # The prompt comes first.
        prompt = self._prompts[step.choice // self._per_prompt]
        choice.offset = len(prompt.text)
        body: Json = {"text": prompt.text + _text_of(step.parts)}
        num_top = self._request.prompt_logprobs
        if num_top is not None and step.prompt_logprobs is not None:
            body["prompt_logprobs"] = await vllm_prompt_logprobs(
                step.prompt_logprobs, num_top, self._served
            )
        if self._has_token_ids:
            body["prompt_token_ids"] = prompt.ids
        shown = await self._shown(step, body)
        choice.is_started = True
        return shown

    def _added(self, parts: Sequence[AnswerPart]) -> Json:
        return {"text": _text_of(parts)}

    @property
    def _shows_tokens(self) -> bool:
        return super()._shows_tokens or self._request.is_prompt_alone

    def _kept(self, step: AnswerStep) -> AnswerStep:
        """Drops the token that was generated although only the prompt is wanted."""
        if not self._request.is_prompt_alone:
            return step
        end = step.end
        if end is not None:
            usage = Usage(
                prompt_tokens=end.usage.prompt_tokens,
                cached_tokens=end.usage.cached_tokens,
                pulled_tokens=end.usage.pulled_tokens,
            )
            end = replace(end, usage=usage, finish_reason=FinishReason.LENGTH, stop_match="")
        return replace(step, parts=(), token_ids=(), logprobs=(), end=end)

    async def _logprobs(self, step: AnswerStep) -> Json | None:
        """Those of the prompt come first, with the first piece."""
        choice = self._choices[step.choice]
        num_top, pieces = self._request.logprobs or 0, []
        if self._request.echo and step.prompt_logprobs is not None:
            pieces.append(await legacy_prompt_logprobs(step.prompt_logprobs, num_top, self._served))
        if step.logprobs:
            texts = await self._served.token_bytes(ids_in(step.logprobs))
            pieces.append(legacy_logprobs(step.logprobs, texts, offset=choice.offset))
            shown = (token_text(texts[token.token_id]) for token in step.logprobs)
            choice.offset += sum(map(len, shown))
        if not pieces:
            return None
        return {name: [one for piece in pieces for one in piece[name]] for name in pieces[0]}


def _text_of(parts: Sequence[AnswerPart]) -> str:
    return "".join(part.text for part in parts if isinstance(part, ContentText))
