"""`POST /v1/completions`: what follows a text, without a chat template."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from segue.answers import ContentText
from segue.api.turn import FinishReason, PromptLogprobs, TurnEnd, Usage
from segue.api.types import SampledToken
from segue.gateway.http.stream import TextEvents, data
from segue.gateway.openai.chat import DONE
from segue.gateway.openai.completion_request import CompletionRequest
from segue.gateway.openai.objects import (
    Json,
    finish_reason,
    ids_in,
    legacy_logprobs,
    token_text,
    total_usage,
    usage_object,
)
from segue.gateway.openai.prompt_logprobs import legacy_form, vllm_form
from segue.gateway.served import ServedModel, fingerprint
from segue.gateway.turns import Step


@dataclass(frozen=True, slots=True)
class ShownPrompt:
    """What the answer shows of a prompt, if the request asks for it."""

    text: str
    ids: list[int]


@dataclass(slots=True)
class _Choice:
    index: int
    text: str
    offset: int
    """Where the text of the next token starts. Some of it may not be sent yet."""
    prompt_logprobs: PromptLogprobs | None = None
    logprobs: list[SampledToken] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    end: TurnEnd | None = None
    is_started: bool = False


class CompletionAnswer:
    """The answer to one request."""

    def __init__(
        self,
        request: CompletionRequest,
        steps: AsyncGenerator[list[Step], None],
        *,
        served: ServedModel,
        prompts: Sequence[ShownPrompt],
        request_id: str,
    ) -> None:
        self._request = request
        self._steps = steps
        self._served = served
        self._prompts = prompts
        self._per_prompt = request.n or 1
        self._request_id = request_id
        self._choices: dict[int, _Choice] = {}
        self._texts: dict[int, TextEvents] = {}
        """Of each answer."""

    async def whole(self) -> Json:
        """Raises SegueErrors."""
        async with aclosing(self._steps) as steps:
            async for some in steps:
                for step in map(self._kept, some):
                    choice = self._choice(step)
                    choice.text += _text_of(step)
                    choice.logprobs += step.logprobs
                    choice.token_ids += step.token_ids
                    choice.end = step.end or choice.end
        body = await self._head()
        body["choices"] = [
            await self._shown(choice, choice.text, choice.logprobs, choice.token_ids)
            for choice in self._in_order()
        ]
        body["usage"] = self._usage()
        return body

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Raises SegueErrors."""
        head = await self._head()
        if self._request.has_usage:
            head["usage"] = None
        async with aclosing(self._steps) as steps:
            async for some in steps:
                events = []
                for step in map(self._kept, some):
                    if (event := self._text_event(step, head)) is not None:
                        events.append(event)
                    elif _is_shown(step):
                        events.append(data({**head, "choices": [await self._chunk(step)]}))
                if events:
                    yield b"".join(events)
        if self._request.has_usage:
            yield data({**head, "choices": [], "usage": self._usage()})
        yield DONE

    def _text_event(self, step: Step, head: Json) -> bytes | None:
        """The event of a step that adds text, and nothing else: only this text differs from the
        event before. None for other steps.
        """
        choice = self._choices.get(step.choice)
        if choice is None or not choice.is_started or step.end is not None or self._shows_tokens:
            return None
        if not (text := _text_of(step)):
            return None
        if step.choice not in self._texts:
            self._texts[step.choice] = TextEvents(
                lambda some: data({**head, "choices": [_bare(choice, some)]})
            )
        return self._texts[step.choice].of(text)

    @property
    def _shows_tokens(self) -> bool:
        return bool(self._request.return_token_ids or self._request.logprobs is not None)

    async def _chunk(self, step: Step) -> Json:
        choice = self._choice(step)
        new = _text_of(step)
        # What is echoed comes with the first piece.
        text = new if choice.is_started else choice.text + new
        choice.end = step.end
        chunk = await self._shown(choice, text, step.logprobs, step.token_ids)
        choice.is_started = True
        return chunk

    async def _head(self) -> Json:
        info = await self._served.info()
        return {
            "id": f"cmpl-{self._request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": info.name,
            "system_fingerprint": fingerprint(info),
        }

    def _choice(self, step: Step) -> _Choice:
        echoed = self._prompts[step.choice // self._per_prompt].text
        choice = self._choices.setdefault(step.choice, _Choice(step.choice, echoed, len(echoed)))
        choice.prompt_logprobs = step.prompt_logprobs or choice.prompt_logprobs
        return choice

    def _kept(self, step: Step) -> Step:
        """Without the token that was generated although only the prompt is wanted."""
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

    def _in_order(self) -> list[_Choice]:
        return [self._choices[index] for index in sorted(self._choices)]

    def _usage(self) -> Json:
        ends = [choice.end for choice in self._in_order() if choice.end is not None]
        return usage_object(total_usage(ends, per_prompt=self._per_prompt))

    async def _shown(
        self,
        choice: _Choice,
        text: str,
        tokens: Sequence[SampledToken],
        token_ids: Sequence[int],
    ) -> Json:
        shown = _bare(choice, text)
        if self._request.logprobs is not None:
            shown["logprobs"] = await self._logprobs(choice, tokens)
        if self._request.prompt_logprobs is not None and choice.prompt_logprobs is not None:
            shown["prompt_logprobs"] = await vllm_form(
                choice.prompt_logprobs, self._request.prompt_logprobs, self._served
            )
        if self._request.return_token_ids:
            shown["token_ids"] = list(token_ids)
            if not choice.is_started:
                prompt = self._prompts[choice.index // self._per_prompt]
                shown["prompt_token_ids"] = prompt.ids
        if choice.end is not None:
            shown["stop_reason"] = choice.end.stop_match or None
        return shown

    async def _logprobs(self, choice: _Choice, tokens: Sequence[SampledToken]) -> Json | None:
        """Those of the prompt first, in the piece that shows it."""
        pieces = []
        asked, prompt = self._request, choice.prompt_logprobs
        if asked.echoes_logprobs and prompt is not None and not choice.is_started:
            pieces.append(await legacy_form(prompt, asked.logprobs or 0, self._served))
        if tokens:
            texts = await self._served.token_bytes(ids_in(tokens))
            pieces.append(legacy_logprobs(tokens, texts, offset=choice.offset))
            choice.offset += sum(len(token_text(texts[token.token_id])) for token in tokens)
        if not pieces:
            return None
        return {name: [one for piece in pieces for one in piece[name]] for name in pieces[0]}


def _bare(choice: _Choice, text: str) -> Json:
    end = choice.end
    return {
        "index": choice.index,
        "text": text,
        "logprobs": None,
        "finish_reason": None if end is None else finish_reason(end, has_calls=False),
    }


def _is_shown(step: Step) -> bool:
    return bool(
        step.parts or step.token_ids or step.prompt_logprobs is not None or step.end is not None
    )


def _text_of(step: Step) -> str:
    return "".join(part.text for part in step.parts if isinstance(part, ContentText))
