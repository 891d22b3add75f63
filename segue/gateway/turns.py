"""Runs the turns of a request: the only place that asks the cluster for answers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from segue.answers import AnswerParser, AnswerPart, CallAbandoned, CallEnd, CallStart
from segue.answers.joined import joined
from segue.api.errors import Cancelled
from segue.api.turn import (
    FinishReason,
    PromptLogprobs,
    TokenDelta,
    TurnEnd,
    TurnEvent,
    TurnStarted,
    Usage,
)
from segue.api.types import (
    OutputFormat,
    SampledToken,
    SamplingParams,
    StopConditions,
    TurnInput,
)
from segue.gateway.forms import Form
from segue.gateway.http.door import Visit
from segue.gateway.inbox import Inbox
from segue.gateway.metrics import GatewayMetrics
from segue.process.telemetry import Clock


class TurnCalls(Protocol):
    """What this asks of the router; `segue.sdk.client.Client` documents each call."""

    def stream(
        self,
        turn_input: TurnInput,
        *,
        session_hint: str | None = None,
        turn_id: str = "",
        sampling: SamplingParams | None = None,
        stop: StopConditions | None = None,
        cache_salt: str = "",
        priority: int = 0,
        output: OutputFormat | None = None,
    ) -> AsyncGenerator[TurnEvent, None]: ...

    async def cancel(self, turn_id: str) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a request wants: one answer for each of `inputs`."""

    inputs: tuple[TurnInput, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: StopConditions = field(default_factory=StopConditions)
    hint: str = ""
    form: Form = field(default_factory=Form)
    is_chat: bool = True
    """The answer may have reasoning and calls; otherwise all of it is content."""
    tools: tuple[str, ...] = ()
    """Those that may be called."""
    max_calls: int | None = None
    """The answer ends after this many calls."""
    cache_salt: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one of the answers got since its last step."""

    choice: int
    """The index of its input."""
    started: TurnStarted | None = None
    prompt_logprobs: PromptLogprobs | None = None
    """Once, not after the first tokens. Answers to the same prompt have the same."""
    parts: tuple[AnswerPart, ...] = ()
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[SampledToken, ...] = ()
    end: TurnEnd | None = None


class Turns:
    def __init__(
        self,
        client: TurnCalls,
        metrics: GatewayMetrics,
        *,
        ping_s: float,
        clock: Clock = time.monotonic,
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._ping_s = ping_s
        self._clock = clock

    async def steps(self, wanted: Wanted, visit: Visit) -> AsyncGenerator[list[Step], None]:
        """Yields what has arrived, of all answers; an empty list if nothing came for `ping_s` since
        the first event. Until then a turn may wait for a place, and be refused with a status. The
        last step of each answer has its end. Leaving the iteration cancels the turns. Raises
        SegueErrors.
        """
        inbox = Inbox(len(wanted.inputs), self._ping_s)
        choices = [_Choice(wanted, index) for index in range(len(wanted.inputs))]
        is_started = has_token = False
        works = [self._run(wanted, visit, index, inbox) for index in range(len(choices))]
        async with _running(works, inbox):
            while not all(choice.is_over for choice in choices):
                steps = []
                for index, events in await inbox.read():
                    was_cut = choices[index].is_cut
                    step = choices[index].take(events)
                    steps.append(step)
                    if choices[index].is_cut and not was_cut and step.end is None:
                        await self._client.cancel(_turn_id(visit, index))
                    if step.token_ids and not has_token:
                        has_token = True
                        since = self._clock() - visit.arrived_at
                        self._metrics.first_token_seconds.observe(since)
                is_started = is_started or bool(steps)
                if is_started:
                    yield steps

    async def _run(self, wanted: Wanted, visit: Visit, index: int, inbox: Inbox) -> None:
        leader = wanted.inputs.index(wanted.inputs[index])
        sampling = _seeded(wanted.sampling, index)
        if leader != index:
            # By then the prompt is in the caches, and this turn computes little of it again.
            await inbox.has_tokens[leader].wait()
            if (known := inbox.prompt_logprobs.get(leader)) is not None:
                inbox.put(index, known)
                sampling = replace(sampling, prompt_logprobs=None)
        events = self._client.stream(
            wanted.inputs[index],
            session_hint=wanted.hint,
            turn_id=_turn_id(visit, index),
            sampling=sampling,
            stop=wanted.stop,
            cache_salt=wanted.cache_salt,
            priority=wanted.priority,
            output=wanted.form.output,
        )
        try:
            async with contextlib.aclosing(events) as arriving:
                async for event in arriving:
                    inbox.put(index, event)
        except Exception as error:
            # Raised again by the reader.
            inbox.fail(wanted.form.in_words_of_request(error))


def _turn_id(visit: Visit, index: int) -> str:
    return f"{visit.turn_id}-{index}" if index else visit.turn_id


def _seeded(sampling: SamplingParams, index: int) -> SamplingParams:
    """With one seed for all, all answers would be the same."""
    if sampling.seed is None or not index:
        return sampling
    return replace(sampling, seed=(sampling.seed + index) % 2**63)


class _Choice:
    """One answer: its parser, and how far it is."""

    def __init__(self, wanted: Wanted, index: int) -> None:
        self.is_over = False
        self.is_cut = False
        """It has all calls that it may have; what follows is dropped."""
        self._wanted = wanted
        self._index = index
        self._parser = AnswerParser(reasoning="none")
        self._num_calls = 0

    def take(self, events: Sequence[TurnEvent]) -> Step:
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
                    parts += self._parser.push(event.text)
                case TurnEnd():
                    end = event
                    parts += self._parser.finish(is_whole=event.is_whole)
        kept = joined(self._up_to_last_call(parts))
        return Step(
            choice=self._index,
            started=started,
            prompt_logprobs=prompt_logprobs,
            parts=kept,
            token_ids=tuple(token_id for delta in deltas for token_id in delta.token_ids),
            logprobs=tuple(token for delta in deltas for token in delta.logprobs),
            end=None if end is None else self._ended(end),
        )

    def _up_to_last_call(self, parts: list[AnswerPart]) -> list[AnswerPart]:
        if self._wanted.max_calls is None:
            return parts
        kept: list[AnswerPart] = []
        for part in parts:
            if self.is_cut:
                break
            kept.append(part)
            self._num_calls += isinstance(part, CallStart) - isinstance(part, CallAbandoned)
            if isinstance(part, CallEnd) and self._num_calls == self._wanted.max_calls:
                self.is_cut = True
        return kept

    def _ended(self, end: TurnEnd) -> TurnEnd:
        """Raises Cancelled if somebody else cancelled the turn."""
        self.is_over = True
        if end.finish_reason is not FinishReason.CANCELLED:
            return end
        if not self.is_cut:
            raise Cancelled("the turn was cancelled by its id")
        return replace(end, finish_reason=FinishReason.STOP)


@contextlib.asynccontextmanager
async def _running(
    works: Iterable[Coroutine[None, None, None]], inbox: Inbox
) -> AsyncIterator[None]:
    """Runs them beside the block, and no longer. They raise nothing: a TaskGroup would cancel the
    task that reads the generator, not the generator.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        inbox.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def total_usage(ends: Sequence[TurnEnd], *, per_prompt: int) -> Usage:
    """Of all answers together, of which each `per_prompt` share a prompt. It counts once, with what
    was computed of it for the answer that had to compute the most.
    """
    usages = [end.usage for end in ends]
    cached = [usage.cached_tokens + usage.pulled_tokens for usage in usages]
    firsts = range(0, len(usages), per_prompt)
    return Usage(
        prompt_tokens=sum(usages[first].prompt_tokens for first in firsts),
        cached_tokens=sum(min(cached[first : first + per_prompt]) for first in firsts),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
        drafted_tokens=sum(usage.drafted_tokens for usage in usages),
        accepted_tokens=sum(usage.accepted_tokens for usage in usages),
    )
