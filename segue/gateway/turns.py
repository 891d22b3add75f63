"""Runs the turns of a request: the only place that asks the cluster for answers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Protocol, TypeAlias

from segue.answers import AnswerParser, AnswerPart, CallEnd, ContentText
from segue.answers.parts import joined
from segue.api.errors import Cancelled
from segue.api.turn import (
    FinishReason,
    PromptLogprobs,
    TokenDelta,
    TurnEnd,
    TurnEvent,
    TurnStarted,
)
from segue.api.types import (
    SampledToken,
    SamplingParams,
    SessionId,
    StopConditions,
    TurnId,
    TurnInput,
    TurnRequest,
)
from segue.gateway.forms import Form
from segue.gateway.http.door import Visit
from segue.gateway.inbox import Inbox, running_beside
from segue.gateway.metrics import GatewayMetrics


class TurnCalls(Protocol):
    """The calls to the router that are used here; see `segue.sdk.client.Client`."""

    def follow(self, request: TurnRequest) -> AsyncGenerator[list[TurnEvent], None]: ...

    async def cancel(self, turn_id: str) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """The turns of a request: one for each of `inputs`."""

    inputs: tuple[TurnInput, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: StopConditions = field(default_factory=StopConditions)
    hint: str = ""
    form: Form = field(default_factory=Form)
    is_chat: bool = True
    """The answer may have reasoning and calls; otherwise it is only content."""
    tools: tuple[str, ...] = ()
    """The tools that may be called."""
    is_single: bool = False
    """The answer ends after its first call."""
    cache_salt: str = ""
    priority: int = 0


@dataclass(slots=True, kw_only=True)
class AnswerStep:
    """The news of one answer since its previous step."""

    choice: int
    """The index of its input."""
    started: TurnStarted | None = None
    prompt_logprobs: PromptLogprobs | None = None
    """Comes once, at the latest with the first tokens; the same for answers to the same prompt."""
    parts: tuple[AnswerPart, ...] = ()
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[SampledToken, ...] = ()
    end: TurnEnd | None = None


Arrived: TypeAlias = Sequence[tuple[int, Sequence[TurnEvent]]]


class Turns:
    def __init__(self, client: TurnCalls, metrics: GatewayMetrics) -> None:
        self._client = client
        self._metrics = metrics

    async def steps(
        self, wanted: GenerationRequest, visit: Visit
    ) -> AsyncGenerator[list[AnswerStep], None]:
        """Yields what has arrived for all answers. The last step of each answer has its end.
        Leaving the iteration cancels the turns. Raises SegueErrors.
        """
        answers = _Answers(self._client, self._metrics, wanted, visit)
        try:
            if len(wanted.inputs) > 1:
                async with contextlib.aclosing(answers.together()) as batches:
                    async for arrived in batches:
                        yield await answers.take(arrived)
                return
            # A task in between would cost each event one more round of the event loop.
            async with contextlib.aclosing(answers.follow(0, wanted.sampling)) as following:
                async for events in following:
                    yield await answers.take(((0, events),))
        except Exception as error:
            raise wanted.form.in_words_of_request(error) from None


class _Answers:
    """The answers to one request."""

    def __init__(
        self, client: TurnCalls, metrics: GatewayMetrics, wanted: GenerationRequest, visit: Visit
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._wanted = wanted
        self._visit = visit
        self._choices = [_Choice(wanted, index) for index in range(len(wanted.inputs))]
        self._num_running = len(self._choices)

    def follow(self, index: int, sampling: SamplingParams) -> AsyncGenerator[list[TurnEvent], None]:
        """The events of one turn."""
        wanted = self._wanted
        return self._client.follow(
            TurnRequest(
                session_id=SessionId(""),
                session_hint=wanted.hint,
                turn_id=TurnId(self._turn_id(index)),
                input=wanted.inputs[index],
                sampling=sampling,
                stop=wanted.stop,
                cache_salt=wanted.cache_salt,
                priority=wanted.priority,
                output=wanted.form.output,
            )
        )

    def _turn_id(self, index: int) -> str:
        return f"{self._visit.turn_id}-{index}" if index else self._visit.turn_id

    async def together(self) -> AsyncGenerator[Arrived, None]:
        """Yields pending events, by the index of their input, until all turns have ended."""
        inbox = Inbox(self._num_running)
        works = [self._run(index, inbox) for index in range(self._num_running)]
        async with running_beside(works):
            while arrived := await inbox.read():
                yield arrived

    async def _run(self, index: int, inbox: Inbox) -> None:
        inputs, sampling = self._wanted.inputs, _seeded(self._wanted.sampling, index)
        leader = inputs.index(inputs[index])
        if leader != index:
            # By then the prompt is cached, and this turn computes little of it again.
            await inbox.has_tokens[leader].wait()
            if (known := inbox.prompt_logprobs.get(leader)) is not None:
                inbox.put(index, known)
                sampling = replace(sampling, prompt_logprobs=None)
        try:
            async with contextlib.aclosing(self.follow(index, sampling)) as following:
                async for events in following:
                    for event in events:
                        inbox.put(index, event)
            inbox.ended()
        except Exception as error:
            # Raised again by the reader.
            inbox.fail(error)

    async def take(self, arrived: Arrived) -> list[AnswerStep]:
        visit, steps = self._visit, []
        for index, events in arrived:
            choice = self._choices[index]
            was_cut = choice.is_cut
            step = choice.take(events)
            steps.append(step)
            if step.end is not None:
                self._num_running -= 1
            elif choice.is_cut and not was_cut:
                await self._client.cancel(self._turn_id(index))
            if step.token_ids and not visit.first_token_at:
                visit.first_token_at = time.monotonic()
                self._metrics.first_token_seconds.observe(visit.first_token_at - visit.arrived_at)
        # Before its first event, a turn may still be refused with an HTTP status.
        visit.has_started = True
        visit.has_ended = not self._num_running
        return steps


def _seeded(sampling: SamplingParams, index: int) -> SamplingParams:
    """With the same seed, all answers would be the same."""
    if sampling.seed is None or not index:
        return sampling
    return replace(sampling, seed=(sampling.seed + index) % 2**63)


class _Choice:
    """The state of one answer."""

    def __init__(self, wanted: GenerationRequest, index: int) -> None:
        self.is_cut = False
        """It has the one call that it may have; the rest is dropped."""
        self._wanted = wanted
        self._index = index
        self._parser: AnswerParser | None = None
        """None until the turn has started, and if the answer is only content."""

    def take(self, events: Sequence[TurnEvent]) -> AnswerStep:
        if len(events) == 1 and isinstance(delta := events[0], TokenDelta):
            # Almost always.
            return AnswerStep(
                choice=self._index,
                parts=joined(self._up_to_last_call(self._read(delta.text))),
                token_ids=delta.token_ids,
                logprobs=delta.logprobs,
            )
        parts: list[AnswerPart] = []
        started, prompt_logprobs, end = None, None, None
        deltas: list[TokenDelta] = []
        for event in events:
            match event:
                case TurnStarted():
                    started = event
                    if self._wanted.is_chat:
                        self._parser = AnswerParser(
                            tools=self._wanted.tools,
                            tool_calls=event.tool_call_parser,
                            reasoning=event.reasoning_parser,
                            starts_in_reasoning=event.starts_in_reasoning,
                        )
                case PromptLogprobs():
                    prompt_logprobs = event
                case TokenDelta():
                    deltas.append(event)
                    parts += self._read(event.text)
                case TurnEnd():
                    end = event
                    if self._parser is not None:
                        parts += self._parser.finish(is_whole=event.is_whole)
        kept = joined(self._up_to_last_call(parts))
        return AnswerStep(
            choice=self._index,
            started=started,
            prompt_logprobs=prompt_logprobs,
            parts=kept,
            token_ids=tuple(chain.from_iterable(delta.token_ids for delta in deltas)),
            logprobs=tuple(chain.from_iterable(delta.logprobs for delta in deltas)),
            end=None if end is None else self._ended(end),
        )

    def _read(self, text: str) -> list[AnswerPart]:
        if self._parser is not None:
            return self._parser.push(text)
        return [ContentText(text)] if text else []

    def _up_to_last_call(self, parts: list[AnswerPart]) -> list[AnswerPart]:
        if not self._wanted.is_single:
            return parts
        kept: list[AnswerPart] = []
        for part in parts:
            if self.is_cut:
                break
            kept.append(part)
            self.is_cut = isinstance(part, CallEnd)
        return kept

    def _ended(self, end: TurnEnd) -> TurnEnd:
        """Raises Cancelled if the turn was cancelled from elsewhere."""
        if end.finish_reason is not FinishReason.CANCELLED:
            return end
        if not self.is_cut:
            raise Cancelled("the turn was cancelled by its id")
        return replace(end, finish_reason=FinishReason.STOP)
