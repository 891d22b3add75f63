"""The answer to a request, whole or as a stream of events. Each API has a subclass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from starlette.types import ASGIApp

from segue.answers import AnswerPart
from segue.answers.parts import joined
from segue.api.turn import PromptLogprobs, TurnEnd
from segue.api.types import SampledToken
from segue.gateway.http.errors import Failure, Json
from segue.gateway.http.routes import Gateway, json_response
from segue.gateway.http.stream import PING, EventStream
from segue.gateway.turns import AnswerStep


class GatewayAnswer(ABC):
    def __init__(self, steps: AsyncGenerator[list[AnswerStep], None]) -> None:
        """Either `whole` or `events` reads the steps, once."""
        self._steps = steps

    @abstractmethod
    async def whole(self) -> Json:
        """Raises SegueErrors."""

    @abstractmethod
    async def _events_of(self, steps: list[AnswerStep]) -> list[bytes]: ...

    @abstractmethod
    def failed(self, failure: Failure) -> bytes:
        """The last event of a stream that an error ends."""

    def waiting(self) -> bytes:
        """Keeps the stream alive."""
        return PING

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Raises SegueErrors."""
        async with aclosing(self._steps) as batches:
            async for steps in batches:
                if events := await self._events_of(steps):
                    yield b"".join(events)

    async def _all_steps(self) -> list[AnswerStep]:
        """One step for each choice, with everything that came for it."""
        collected: dict[int, _Collected] = {}
        async with aclosing(self._steps) as batches:
            async for steps in batches:
                for step in steps:
                    collected.setdefault(step.choice, _Collected()).add(step)
        return [collected[choice].step(choice) for choice in sorted(collected)]


async def respond(gateway: Gateway, answer: GatewayAnswer, *, stream: bool | None) -> ASGIApp:
    if not stream:
        return json_response(await answer.whole())
    return EventStream(
        answer.events(), answer.failed, waiting=answer.waiting, ping_s=gateway.config.ping_s
    )


@dataclass(slots=True)
class _Collected:
    parts: list[AnswerPart] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[SampledToken] = field(default_factory=list)
    prompt_logprobs: PromptLogprobs | None = None
    end: TurnEnd | None = None

    def add(self, step: AnswerStep) -> None:
        self.parts += step.parts
        self.token_ids += step.token_ids
        self.logprobs += step.logprobs
        self.prompt_logprobs = step.prompt_logprobs or self.prompt_logprobs
        self.end = step.end or self.end

    def step(self, choice: int) -> AnswerStep:
        return AnswerStep(
            choice=choice,
            parts=joined(self.parts),
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs),
            prompt_logprobs=self.prompt_logprobs,
            end=self.end,
        )
