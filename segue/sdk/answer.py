"""Gathers a whole turn from its events."""

from __future__ import annotations

from collections.abc import AsyncIterable
from dataclasses import dataclass

from segue.api.turn import PromptLogprobs, TokenDelta, TurnEnd, TurnEvent
from segue.api.types import SampledToken, TurnId


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole turn, gathered."""

    turn_id: TurnId
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[SampledToken, ...]
    """One per token, if requested."""
    end: TurnEnd
    prompt_logprobs: PromptLogprobs | None = None
    """If requested."""


async def gathered(turn_id: TurnId, events: AsyncIterable[TurnEvent]) -> Answer:
    text: list[str] = []
    token_ids: list[int] = []
    logprobs: list[SampledToken] = []
    end: TurnEnd | None = None
    prompt_logprobs: PromptLogprobs | None = None
    async for event in events:
        match event:
            case TokenDelta():
                text.append(event.text)
                token_ids.extend(event.token_ids)
                logprobs.extend(event.logprobs)
            case PromptLogprobs():
                prompt_logprobs = event
            case TurnEnd():
                end = event
    assert end is not None, "a stream without an error ends with a TurnEnd"
    return Answer(
        turn_id=turn_id,
        text="".join(text),
        token_ids=tuple(token_ids),
        logprobs=tuple(logprobs),
        end=end,
        prompt_logprobs=prompt_logprobs,
    )
