"""`POST /v1/chat/completions`: the answer, whole or as a stream of chunks."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from segue.answers import (
    AnswerPart,
    CallAbandoned,
    CallArguments,
    CallStart,
    ContentText,
    ReasoningText,
)
from segue.api.turn import PromptLogprobs, TurnEnd
from segue.api.types import SampledToken
from segue.gateway.http.stream import TextEvents, data
from segue.gateway.openai.chat_request import ChatRequest
from segue.gateway.openai.objects import (
    Json,
    chat_logprobs,
    finish_reason,
    ids_in,
    new_call_id,
    total_usage,
    usage_object,
)
from segue.gateway.openai.prompt_logprobs import vllm_form
from segue.gateway.served import ServedModel, fingerprint
from segue.gateway.turns import Step

DONE = b"data: [DONE]\n\n"

_Text: TypeAlias = ContentText | ReasoningText | CallArguments


@dataclass(slots=True)
class _Choice:
    """One answer, as far as it is known."""

    index: int
    reasoning: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    calls: dict[int, Json] = field(default_factory=dict)
    logprobs: list[SampledToken] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    prompt_logprobs: PromptLogprobs | None = None
    end: TurnEnd | None = None
    is_started: bool = False
    """Part of it was sent."""

    def add(self, step: Step) -> None:
        for part in step.parts:
            match part:
                case ReasoningText(text):
                    self.reasoning.append(text)
                case ContentText(text):
                    self.content.append(text)
                case CallStart(index, name):
                    self.calls[index] = _call(name)
                case CallArguments(index, text):
                    self.calls[index]["function"]["arguments"] += text
                case CallAbandoned(index, text):
                    # Streams have its fragments already.
                    del self.calls[index]
                    self.content.append(text)
        self.prompt_logprobs = step.prompt_logprobs or self.prompt_logprobs
        self.logprobs += step.logprobs
        self.token_ids += step.token_ids
        self.end = step.end or self.end

    @property
    def finish_reason(self) -> str | None:
        return None if self.end is None else finish_reason(self.end, has_calls=bool(self.calls))


def _call(name: str) -> Json:
    return {
        "id": new_call_id(),
        "type": "function",
        "function": {"name": name, "arguments": ""},
    }


class ChatAnswer:
    """The answer to one request."""

    def __init__(
        self,
        request: ChatRequest,
        steps: AsyncGenerator[list[Step], None],
        *,
        served: ServedModel,
        prompt_ids: Iterable[int] | None,
        request_id: str,
    ) -> None:
        """`prompt_ids`: if the client wants them."""
        self._request = request
        self._steps = steps
        self._served = served
        self._prompt_ids = None if prompt_ids is None else list(prompt_ids)
        self._request_id = request_id
        self._shows_tokens = bool(request.return_token_ids or request.logprobs)
        self._choices: dict[int, _Choice] = {}
        self._texts: dict[tuple[int, type[AnswerPart], int], TextEvents] = {}
        """Of each answer, and in it of each kind of text, and of each call's arguments."""

    async def whole(self) -> Json:
        """Raises SegueErrors."""
        async with aclosing(self._steps) as steps:
            async for some in steps:
                for step in some:
                    self._choice(step).add(step)
        choices = [self._choices[index] for index in sorted(self._choices)]
        body = await self._head("chat.completion")
        body["choices"] = [await self._whole_choice(choice) for choice in choices]
        body["usage"] = self._usage()
        if self._prompt_ids is not None:
            body["prompt_token_ids"] = self._prompt_ids
        num_top, logprobs = self._request.prompt_logprobs, choices[0].prompt_logprobs
        if num_top is not None and logprobs is not None:
            body["prompt_logprobs"] = await vllm_form(logprobs, num_top, self._served)
        return body

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Raises SegueErrors."""
        head = await self._head("chat.completion.chunk")
        if self._request.has_usage:
            head["usage"] = None
        first = {} if self._prompt_ids is None else {"prompt_token_ids": self._prompt_ids}
        num_running = self._request.n or 1
        async with aclosing(self._steps) as steps:
            async for some in steps:
                events = []
                for step in some:
                    if (event := self._text_event(step, head)) is not None:
                        events.append(event)
                    elif (delta := self._delta(step)) is not None:
                        chunk = {**head, "choices": [await self._chunk(step, delta)], **first}
                        events.append(data(chunk))
                        first = {}
                        num_running -= step.end is not None
                if not num_running:
                    events += self._last_events(head)
                if events:
                    yield b"".join(events)

    def _last_events(self, head: Json) -> Iterator[bytes]:
        if self._request.has_usage:
            yield data({**head, "choices": [], "usage": self._usage()})
        yield DONE

    async def _head(self, kind: str) -> Json:
        info = await self._served.info()
        return {
            "id": f"chatcmpl-{self._request_id}",
            "object": kind,
            "created": int(time.time()),
            "model": info.name,
            "system_fingerprint": fingerprint(info),
        }

    def _choice(self, step: Step) -> _Choice:
        return self._choices.setdefault(step.choice, _Choice(step.choice))

    def _usage(self) -> Json:
        ends = [choice.end for choice in self._choices.values() if choice.end is not None]
        return usage_object(total_usage(ends, per_prompt=len(ends)))

    async def _whole_choice(self, choice: _Choice) -> Json:
        content, reasoning = "".join(choice.content), "".join(choice.reasoning)
        message: Json = {
            "role": "assistant",
            "content": content if content or not choice.calls else None,
            "refusal": None,
        }
        if reasoning and self._sends_reasoning:
            message |= _reasoning(reasoning)
        if choice.calls:
            message["tool_calls"] = list(choice.calls.values())
        return await self._finished(choice, {"message": message}, choice.logprobs, choice.token_ids)

    async def _chunk(self, step: Step, delta: Json) -> Json:
        choice = self._choice(step)
        return await self._finished(choice, {"delta": delta}, step.logprobs, step.token_ids)

    async def _finished(
        self,
        choice: _Choice,
        body: Json,
        logprobs: Iterable[SampledToken],
        token_ids: Iterable[int],
    ) -> Json:
        tokens = list(logprobs)
        shown = _shown(choice, body)
        if self._request.logprobs and tokens:
            texts = await self._served.token_bytes(ids_in(tokens))
            shown["logprobs"] = chat_logprobs(tokens, texts)
        if self._request.return_token_ids:
            shown["token_ids"] = list(token_ids)
        if choice.end is not None:
            # vLLM's: the stop string that ended the answer.
            shown["stop_reason"] = choice.end.stop_match or None
        return shown

    def _text_event(self, step: Step, head: Json) -> bytes | None:
        """The event of a step that adds to one text, and nothing else: only this text differs from
        the event before. None for other steps.
        """
        if len(step.parts) != 1 or step.end is not None or self._shows_tokens:
            return None
        (part,) = step.parts
        key = step.choice, type(part), part.index if isinstance(part, CallArguments) else 0
        if (texts := self._texts.get(key)) is None:
            texts = self._texts_of(step.choice, part, head)
            if texts is None:
                return None
            self._texts[key] = texts
        assert isinstance(part, _Text)
        return texts.of(part.text)

    def _texts_of(self, index: int, part: AnswerPart, head: Json) -> TextEvents | None:
        """None if the part's event has more than a text."""
        choice = self._choices.get(index)
        if choice is None or not choice.is_started or not isinstance(part, _Text):
            return None
        if isinstance(part, ReasoningText) and not self._sends_reasoning:
            return None

        def with_text(text: str) -> bytes:
            delta = self._delta_of([replace(part, text=text)], choice)
            return data({**head, "choices": [_shown(choice, {"delta": delta})]})

        return TextEvents(with_text)

    def _delta(self, step: Step) -> Json | None:
        """What the step adds to the message; None if there is nothing to send."""
        choice = self._choice(step)
        choice.add(step)
        delta = self._delta_of(step.parts, choice)
        has_tokens = bool(step.token_ids) and self._shows_tokens
        if not delta and not has_tokens and step.end is None:
            return None
        if not choice.is_started:
            choice.is_started = True
            return {"role": "assistant", "content": "", **delta}
        return delta

    def _delta_of(self, parts: Iterable[AnswerPart], choice: _Choice) -> Json:
        delta: Json = {}
        calls: dict[int, Json] = {}
        for part in parts:
            match part:
                case ReasoningText(text) if self._sends_reasoning:
                    delta |= _reasoning(delta.get("reasoning", "") + text)
                case ContentText(text):
                    delta["content"] = delta.get("content", "") + text
                case CallStart(index, name):
                    started = {**choice.calls[index], "function": {"name": name, "arguments": ""}}
                    calls[index] = {"index": index, **started}
                case CallArguments(index, text):
                    added = {"index": index, "function": {"arguments": ""}}
                    calls.setdefault(index, added)["function"]["arguments"] += text
        if calls:
            delta["tool_calls"] = list(calls.values())
        return delta

    @property
    def _sends_reasoning(self) -> bool:
        return self._request.include_reasoning is not False


def _shown(choice: _Choice, body: Json) -> Json:
    return {
        "index": choice.index,
        **body,
        "logprobs": None,
        "finish_reason": choice.finish_reason,
    }


def _reasoning(text: str) -> dict[str, Any]:
    """Under both names: clients read one or the other."""
    return {"reasoning": text, "reasoning_content": text}
