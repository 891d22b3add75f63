"""A worker's checks of a turn before it takes it: the model must be able to run all of it.

The router has checked the same. But a token id outside the vocabulary would end the engine that
other turns run on, so a worker does not rely on the router's check.
"""

from __future__ import annotations

from segue.api.errors import InvalidRequest
from segue.api.turn import TurnSpec
from segue.model.config import ModelConfig
from segue.text.limits import (
    validate_against_vocab,
    validate_length,
    validate_prompt,
    validate_prompt_logprobs,
)


def check_turn(turn: TurnSpec, model: ModelConfig) -> None:
    """Raises InvalidRequest, and ContextOverflow."""
    num_prompt, max_tokens = turn.num_prompt, turn.stop.max_tokens
    validate_length(len(turn.context), model.max_position_embeddings)
    validate_prompt(turn.context.tokens, model.vocab_size)
    if turn.context.media:
        raise InvalidRequest(
            f"the prompt has {len(turn.context.media)} images or videos, but this model is served "
            "for text only"
        )
    room = model.max_position_embeddings - num_prompt
    if room < max_tokens:
        raise InvalidRequest(
            f"max_tokens is {max_tokens}, but after a prompt of {num_prompt} tokens the "
            f"model's context has room for {room}"
        )
    validate_against_vocab(turn.sampling, turn.stop, model.vocab_size)
    validate_prompt_logprobs(num_prompt, turn.sampling)
