"""Parts of answers in OpenAI's form: ids, usage, finish reasons, log-probabilities."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from segue.api.turn import FinishReason, PromptLogprobs, TurnEnd, Usage
from segue.api.types import SampledToken
from segue.gateway.http.errors import Json
from segue.gateway.served import ServedModelCache

Shown = TypeVar("Shown")

_MIN_LOGPROB = -9999.0
"""JSON has no infinity; OpenAI and vLLM send this."""


def new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def finish_reason(end: TurnEnd, *, has_calls: bool) -> str:
    if end.finish_reason is FinishReason.LENGTH:
        return "length"
    return "tool_calls" if has_calls else "stop"


def usage_object(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "accepted_prediction_tokens": usage.accepted_tokens,
            "rejected_prediction_tokens": usage.drafted_tokens - usage.accepted_tokens,
            "audio_tokens": 0,
        },
    }


def ids_in(tokens: Iterable[SampledToken]) -> set[int]:
    """The tokens whose texts are shown."""
    found = set()
    for token in tokens:
        found.add(token.token_id)
        found.update(top.token_id for top in token.top_logprobs)
    return found


def legacy_logprobs(
    tokens: Sequence[SampledToken], texts: Mapping[int, bytes], *, offset: int
) -> Json:
    """In the form of completions. The first token's text starts at `offset`. A prompt's first token
    has no log-probability."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token_text(texts[token.token_id]))
    return {
        "tokens": [_named(texts[token.token_id]) for token in tokens],
        "token_logprobs": [
            None if token.logprob is None else shown_logprob(token.logprob) for token in tokens
        ],
        "top_logprobs": [
            None
            if token.logprob is None
            else {
                _named(texts[top.token_id]): shown_logprob(top.logprob)
                for top in token.top_logprobs
            }
            for token in tokens
        ],
        "text_offset": offsets,
    }


def _named(octets: bytes) -> str:
    """OpenAI's name of a token, also of one that is part of a character."""
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{octet:02x}" for octet in octets)


def chat_logprobs(tokens: Sequence[SampledToken], texts: Mapping[int, bytes]) -> Json:
    return {
        "content": [
            {
                **_token(token.token_id, token.logprob, texts),
                "top_logprobs": [
                    _token(top.token_id, top.logprob, texts) for top in token.top_logprobs
                ],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def _token(token_id: int, logprob: float | None, texts: Mapping[int, bytes]) -> Json:
    octets = texts[token_id]
    return {
        "token": token_text(octets),
        "logprob": shown_logprob(logprob),
        "bytes": list(octets),
    }


def token_text(octets: bytes) -> str:
    """An incomplete character becomes U+FFFD."""
    return octets.decode(errors="replace")


def shown_logprob(logprob: float | None) -> float:
    return _MIN_LOGPROB if logprob is None else max(logprob, _MIN_LOGPROB)


def total_usage(ends: Sequence[TurnEnd], *, per_prompt: int) -> Usage:
    """The sum of all answers. Groups of `per_prompt` answers share a prompt, which counts once,
    with the cached tokens of the answer that had the fewest.
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


async def legacy_prompt_logprobs(
    logprobs: PromptLogprobs, num_top: int, served: ServedModelCache
) -> Json:
    """For completions with `echo`: the prompt's text starts at 0."""
    return await _built(
        lambda texts: legacy_logprobs(logprobs.tokens(num_top), texts, offset=0), logprobs, served
    )


async def vllm_prompt_logprobs(
    logprobs: PromptLogprobs, num_top: int, served: ServedModelCache
) -> list[Json | None]:
    """By token id: the prompt's own token, and `num_top` alternatives."""
    return await _built(lambda texts: _vllm_form(logprobs, num_top, texts), logprobs, served)


async def _built(
    build: Callable[[Mapping[int, bytes]], Shown],
    logprobs: PromptLogprobs,
    served: ServedModelCache,
) -> Shown:
    """There may be 250,000 of them: they are built in a thread, while other requests go on."""
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
