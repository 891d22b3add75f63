"""The base of chat completions and completions: a stream sends chunks in the form of the whole."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, replace

from segue.answers import AnswerPart, CallArguments, ContentText, ReasoningText
from segue.api.cluster.status import ModelInfo
from segue.api.turn import TurnEnd
from segue.gateway.http.answer import GatewayAnswer
from segue.gateway.http.errors import Failure, Json
from segue.gateway.http.stream import TextEvents, data
from segue.gateway.openai.objects import finish_reason, total_usage, usage_object
from segue.gateway.openai.options import Options
from segue.gateway.served import ServedModelCache, fingerprint
from segue.gateway.turns import AnswerStep

_DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class ChunkedChoice:
    """How much of one choice was sent."""

    is_started: bool = False
    num_calls: int = 0
    offset: int = 0
    """Where the text of the next token starts. Some text before it may not be sent yet."""


class ChunkedAnswer(GatewayAnswer):
    def __init__(
        self,
        request: Options,
        steps: AsyncGenerator[list[AnswerStep], None],
        *,
        kind: str,
        answer_id: str,
        model: ModelInfo,
        served: ServedModelCache,
        num_choices: int,
        has_logprobs: bool,
    ) -> None:
        super().__init__(steps)
        self._served = served
        self._num_choices = num_choices
        self._per_prompt = request.n or 1
        self._has_logprobs = has_logprobs
        self._has_token_ids = bool(request.return_token_ids)
        self._has_usage = request.has_usage
        self._head: Json = {
            "id": answer_id,
            "object": kind,
            "created": int(time.time()),
            "model": model.name,
            "system_fingerprint": fingerprint(model),
        }
        if request.has_usage:
            self._head["usage"] = None
        self._beside: Json = {}
        """Members beside `choices`, of the whole answer or of the first chunk."""
        self._choices = [ChunkedChoice() for _ in range(num_choices)]
        self._ends: dict[int, TurnEnd] = {}
        self._texts: dict[tuple[int, type[AnswerPart], int], TextEvents] = {}
        """By choice, kind of text, and call."""

    @abstractmethod
    def _added(self, parts: Sequence[AnswerPart]) -> Json:
        """The member of a chunk that adds these parts; empty if they are not shown."""

    @abstractmethod
    async def _chunk(self, step: AnswerStep) -> Json | None:
        """The choice in a chunk; None if there is nothing to send."""

    @abstractmethod
    async def _whole_choice(self, step: AnswerStep) -> Json: ...

    @abstractmethod
    async def _logprobs(self, step: AnswerStep) -> Json | None: ...

    async def whole(self) -> Json:
        choices = [await self._whole_choice(step) for step in await self._all_steps()]
        return {**self._head, "choices": choices, "usage": self._usage(), **self._beside}

    def failed(self, failure: Failure) -> bytes:
        return data(failure.openai()) + _DONE

    async def _events_of(self, steps: list[AnswerStep]) -> list[bytes]:
        events = []
        for step in steps:
            if (event := self._text_event(step)) is not None:
                events.append(event)
            elif (choice := await self._chunk(step)) is not None:
                events.append(data({**self._head, "choices": [choice], **self._beside}))
                self._beside = {}
        if len(self._ends) == self._num_choices:
            events += self._last_events()
        return events

    def _last_events(self) -> Iterator[bytes]:
        if self._has_usage:
            yield data({**self._head, "choices": [], "usage": self._usage()})
        yield _DONE

    def _usage(self) -> Json:
        ends = [self._ends[index] for index in sorted(self._ends)]
        return usage_object(total_usage(ends, per_prompt=self._per_prompt))

    def _text_event(self, step: AnswerStep) -> bytes | None:
        """The event of a step that only adds to one text: nothing but this text differs from the
        previous event. None for other steps.
        """
        if len(step.parts) != 1 or step.end is not None or self._shows_tokens:
            return None
        (part,) = step.parts
        if not isinstance(part, ContentText | ReasoningText | CallArguments):
            return None
        key = step.choice, type(part), part.index if isinstance(part, CallArguments) else 0
        if (texts := self._texts.get(key)) is None:
            if not (self._choices[step.choice].is_started and self._added([part])):
                return None

            def with_text(text: str) -> bytes:
                added = self._added([replace(part, text=text)])
                return data({**self._head, "choices": [_bare(step.choice, added)]})

            texts = self._texts[key] = TextEvents(with_text)
        return texts.of(part.text)

    @property
    def _shows_tokens(self) -> bool:
        return self._has_token_ids or self._has_logprobs

    async def _shown(self, step: AnswerStep, body: Json, *, has_calls: bool = False) -> Json:
        shown = _bare(step.choice, body)
        if self._has_logprobs:
            shown["logprobs"] = await self._logprobs(step)
        if self._has_token_ids:
            shown["token_ids"] = list(step.token_ids)
        if step.end is not None:
            self._ends[step.choice] = step.end
            shown["finish_reason"] = finish_reason(step.end, has_calls=has_calls)
            # vLLM's: the stop string that ended the answer.
            shown["stop_reason"] = step.end.stop_match or None
        return shown


def _bare(choice: int, body: Json) -> Json:
    return {"index": choice, **body, "logprobs": None, "finish_reason": None}
