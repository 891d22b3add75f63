"""Turns, and chunks of prompts and answers, for parts of a worker that are driven alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from segue.api.prompt import Prompt
from segue.api.turn import TurnSpec
from segue.api.types import Sampling, SessionId, StopRules, TurnId
from segue.engine.batch import DecodeChunk, PrefillChunk


def turn_of(
    turn_id: str,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    session_id: str = "",
    branch_points: Sequence[int] = (),
) -> TurnSpec:
    """A greedy turn."""
    return TurnSpec(
        turn_id=TurnId(turn_id),
        session_id=SessionId(session_id),
        context=Prompt(prompt),
        sampling=Sampling(),
        stop=StopRules(max_tokens=max_tokens),
        branch_points=tuple(branch_points),
    )


def prompt_chunks(
    token_ids: Sequence[int], page_ids: Sequence[int], *, chunk_tokens: int, slot: int = 0
) -> Iterator[PrefillChunk]:
    """A whole prompt, which leaves its state in `slot`."""
    for start in range(0, len(token_ids), chunk_tokens):
        yield PrefillChunk(
            token_ids=token_ids[start : start + chunk_tokens],
            start=start,
            page_ids=page_ids,
            slot_in=slot if start else None,
            slot_out=slot,
        )


def decode_chunk(
    token_id: int, position: int, page_ids: Sequence[int], *, slot: int = 0, slot_out: int = 0
) -> DecodeChunk:
    """One token without drafts."""
    return DecodeChunk(
        token_ids=(token_id,),
        start=position,
        page_ids=page_ids,
        slot_in=slot,
        slots_out=(slot_out,),
    )
