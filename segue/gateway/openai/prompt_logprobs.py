"""Log-probabilities of prompts, in the form of completions and in vLLM's.

There may be a quarter of a million of them, so other requests do not wait while they are built.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar

from segue.api.turn import PromptLogprobs
from segue.gateway.openai.objects import Json, legacy_logprobs, shown_logprob, token_text
from segue.gateway.served import ServedModel

Shown = TypeVar("Shown")


async def legacy_form(logprobs: PromptLogprobs, num_top: int, served: ServedModel) -> Json:
    """As completions with `echo` have them: the prompt's text starts at 0."""
    return await _built(
        lambda texts: legacy_logprobs(logprobs.tokens(num_top), texts, offset=0), logprobs, served
    )


async def vllm_form(
    logprobs: PromptLogprobs, num_top: int, served: ServedModel
) -> list[Json | None]:
    """By token id: the prompt's own token, and `num_top` alternatives."""
    return await _built(lambda texts: _vllm_form(logprobs, num_top, texts), logprobs, served)


async def _built(
    build: Callable[[Mapping[int, bytes]], Shown], logprobs: PromptLogprobs, served: ServedModel
) -> Shown:
    texts = await served.token_bytes({*logprobs.token_ids, *logprobs.top_ids})
    return await asyncio.to_thread(build, texts)


def _vllm_form(
    logprobs: PromptLogprobs, num_top: int, texts: Mapping[int, bytes]
) -> list[Json | None]:
    def entry(token_id: int, logprob: float | None, rank: int) -> Json:
        return {
            "logprob": shown_logprob(logprob),
            "rank": rank,
            "decoded_token": token_text(texts[token_id]),
        }

    shown: list[Json | None] = [None]
    own = logprobs.tokens(num_top)[1:]
    for token, rank in zip(own, logprobs.ranks, strict=True):
        best = {
            str(top.token_id): entry(top.token_id, top.logprob, place)
            for place, top in enumerate(token.top_logprobs, 1)
        }
        shown.append({str(token.token_id): entry(token.token_id, token.logprob, rank), **best})
    return shown
