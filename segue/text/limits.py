"""Checks a turn against the model that will serve it: ids inside the vocabulary, room to answer.

`segue.types` has refused what no model could serve. No torch: the router asks before any worker.
"""

from __future__ import annotations

from collections.abc import Sequence

from segue.errors import ContextOverflow, InvalidRequest
from segue.types import Sampling, StopConditions


def validate_against_vocab(params: Sampling, stop: StopConditions, vocab_size: int) -> None:
    """Raises InvalidRequest for token ids that the model does not have."""
    for token_id in params.logit_bias:
        _require_in_vocab("logit_bias names", token_id, vocab_size)
    for token_id in stop.stop_token_ids:
        _require_in_vocab("stop_token_ids has", token_id, vocab_size)


def validate_prompt(token_ids: Sequence[int], vocab_size: int, max_context: int) -> None:
    """Raises InvalidRequest, and ContextOverflow if there is no room for a single token."""
    if not token_ids:
        raise InvalidRequest("expected a prompt of at least one token, got an empty one")
    # Two passes in C; the position is looked for only when there is something to say.
    if min(token_ids) < 0 or max(token_ids) >= vocab_size:
        index = next(i for i, token_id in enumerate(token_ids) if not 0 <= token_id < vocab_size)
        _require_in_vocab(f"the prompt has at index {index}", token_ids[index], vocab_size)
    if len(token_ids) + 1 > max_context:
        raise ContextOverflow(
            f"the prompt has {len(token_ids)} tokens and its answer at least one, but the model's "
            f"context is {max_context} tokens: shorten the prompt"
        )


def _require_in_vocab(what: str, token_id: int, vocab_size: int) -> None:
    if not 0 <= token_id < vocab_size:
        raise InvalidRequest(
            f"{what} token id {token_id}, but the model's ids go from 0 to {vocab_size - 1}"
        )
