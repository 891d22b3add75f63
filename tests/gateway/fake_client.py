"""The SDK's client without a cluster: answers what a test lays out, and remembers the calls."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from router.documents import Document, DocumentStore
from segue.api.cluster.explanation import RecentTurn
from segue.api.cluster.status import ClusterStatus, ModelInfo, RouterStatus
from segue.api.errors import SegueError, Unauthenticated
from segue.api.turn import FinishReason, TokenDelta, TurnEnd, TurnEvent, TurnStarted, Usage
from segue.api.types import (
    ChatInput,
    Detokenized,
    OutputFormat,
    SampledToken,
    SamplingParams,
    SessionId,
    StopConditions,
    TextInput,
    TokenLogprob,
    TurnId,
    TurnInput,
    TurnRequest,
)

MODEL = ModelInfo(name="demo", model_id="0123456789abcdef", max_context=8192)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    turn_input: TurnInput
    session_hint: str | None
    turn_id: str
    sampling: SamplingParams
    stop: StopConditions
    cache_salt: str
    priority: int
    api_key: str | None
    output: OutputFormat | None


@dataclass
class FakeClient:
    answer: Callable[[int], AsyncGenerator[TurnEvent, None]]
    """The events of the turn that comes as the nth one."""
    asked: list[Asked] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    num_left: int = 0
    """Turns whose reader left before the end."""
    is_ready: bool = True
    kept: DocumentStore = field(default_factory=lambda: DocumentStore(1 << 20, 60.0))
    model_info: ModelInfo = MODEL
    model_error: SegueError | None = None

    api_key: str | None = None
    """Of the caller of this moment."""
    known_key: str | None = None
    """If set, the router knows only this one."""

    def with_key(self, api_key: str | None) -> WithKey:
        return WithKey(self, api_key)

    async def follow(self, request: TurnRequest) -> AsyncGenerator[list[TurnEvent], None]:
        number = len(self.asked)
        self.asked.append(
            Asked(
                turn_input=request.input,
                session_hint=request.session_hint,
                turn_id=request.turn_id,
                sampling=request.sampling,
                stop=request.stop,
                cache_salt=request.cache_salt,
                priority=request.priority,
                api_key=self.api_key,
                output=request.output,
            )
        )
        is_over = False
        try:
            async with contextlib.aclosing(_waiting(self.answer(number))) as batches:
                async for events in batches:
                    is_over = isinstance(events[-1], TurnEnd)
                    yield events
        except SegueError:
            is_over = True
            raise
        finally:
            self.num_left += not is_over

    async def cancel(self, turn_id: str) -> bool:
        self.cancelled.append(turn_id)
        return True

    async def model(self, *, timeout_s: float = 5.0) -> ModelInfo:
        if self.known_key is not None and self.api_key != self.known_key:
            raise Unauthenticated("this API key is not known here")
        if self.model_error is not None:
            raise self.model_error
        return self.model_info

    async def tokenize(self, turn_input: ChatInput | TextInput) -> tuple[int, ...]:
        match turn_input:
            case TextInput(text):
                return tuple(text.encode())
            case ChatInput():
                return tuple(range(len(turn_input.messages)))

    async def detokenize(self, token_ids: Sequence[int]) -> Detokenized:
        tokens = tuple(bytes([token_id]) for token_id in token_ids)
        return Detokenized(b"".join(tokens).decode(errors="replace"), tokens)

    async def keep_document(
        self, group: str, name: str, content: bytes, *, previous: str = ""
    ) -> bool:
        return self.kept.keep("", (group, name), Document(content, previous))

    async def documents(self, group: str, name: str, *, alone: bool = False) -> list[bytes]:
        return [one.content for one in self.kept.fetch("", (group, name), alone=alone)]

    async def delete_document(self, group: str, name: str) -> bool:
        return self.kept.delete("", (group, name))

    async def status(self, *, timeout_s: float) -> ClusterStatus:
        return ClusterStatus(
            ready=self.is_ready,
            model=self.model_info.name,
            model_id=self.model_info.model_id,
            workers=(),
            router=RouterStatus(address="router:1"),
        )

    async def recent_turns(self, max_turns: int, *, timeout_s: float) -> list[RecentTurn]:
        return []

    async def ready(self) -> bool:
        return self.is_ready


async def _waiting(
    events: AsyncGenerator[TurnEvent, None],
) -> AsyncGenerator[list[TurnEvent], None]:
    """Those together that come without a pause."""
    waiting: list[TurnEvent] = []
    arrived = asyncio.Event()

    async def read() -> None:
        try:
            async for event in events:
                waiting.append(event)
                arrived.set()
        finally:
            arrived.set()

    reading = asyncio.ensure_future(read())
    try:
        while True:
            if waiting:
                batch = waiting[:]
                waiting.clear()
                yield batch
            elif reading.done():
                reading.result()
                return
            else:
                await arrived.wait()
                arrived.clear()
    finally:
        reading.cancel()


class WithKey:
    """The client as the owner of a key uses it."""

    def __init__(self, client: FakeClient, api_key: str | None) -> None:
        self._client = client
        self._api_key = api_key

    def __getattr__(self, name: str) -> Any:
        self._client.api_key = self._api_key
        return getattr(self._client, name)


def started(*, prompt_tokens: int = 7, starts_in_reasoning: bool = False) -> TurnStarted:
    return TurnStarted(
        session_id=SessionId("s"),
        turn_id=TurnId("t"),
        prompt_tokens=prompt_tokens,
        prefill_worker="prefill-0",
        decode_worker="decode-0",
        starts_in_reasoning=starts_in_reasoning,
    )


def delta(text: str, *, logprobs: bool = False) -> TokenDelta:
    """One token a byte."""
    ids = tuple(text.encode())
    return TokenDelta(
        token_ids=ids,
        text=text,
        logprobs=tuple(
            SampledToken(
                token_id=token_id,
                logprob=-0.5,
                top_logprobs=(TokenLogprob(token_id=token_id, logprob=-0.5),),
            )
            for token_id in ids
            if logprobs
        ),
    )


def ended(
    reason: FinishReason = FinishReason.STOP, *, stop_match: str = "", **usage: Any
) -> TurnEnd:
    counted = {"prompt_tokens": 7, "completion_tokens": 3, **usage}
    return TurnEnd(finish_reason=reason, usage=Usage(**counted), stop_match=stop_match)


def says(*texts: str, **how: Any) -> Callable[[int], AsyncGenerator[TurnEvent, None]]:
    """Answers with these deltas. `how`: `starts_in_reasoning`, `parsers`, `logprobs`, `wait_s`
    before the first delta, and those of `ended`."""
    first = started(starts_in_reasoning=how.pop("starts_in_reasoning", False))
    first = replace(first, **how.pop("parsers", {}))
    wait_s = how.pop("wait_s", 0.0)
    logprobs = how.pop("logprobs", False)

    async def answer(number: int) -> AsyncGenerator[TurnEvent, None]:
        yield first
        await _silence(wait_s)
        for text in texts:
            yield delta(text, logprobs=logprobs)
            # So that the events do not come together.
            await asyncio.sleep(0)
        yield ended(**how)

    return answer


def fails(
    error: Exception, *texts: str, wait_s: float = 0.0
) -> Callable[[int], AsyncGenerator[TurnEvent, None]]:
    async def answer(number: int) -> AsyncGenerator[TurnEvent, None]:
        await _silence(wait_s)
        for text in texts:
            yield delta(text)
            await asyncio.sleep(0)
        raise error

    return answer


async def _silence(wait_s: float) -> None:
    """In parts: a single one could pass while the loop does something else."""
    for _ in range(20):
        await asyncio.sleep(wait_s / 20)


def endless() -> Callable[[int], AsyncGenerator[TurnEvent, None]]:
    async def answer(number: int) -> AsyncGenerator[TurnEvent, None]:
        yield started()
        while True:
            yield delta("more ")
            await asyncio.sleep(0.005)

    return answer
