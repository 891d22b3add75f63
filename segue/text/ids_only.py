"""Prompts of a model that is served without a tokenizer: token ids, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from segue.errors import InvalidRequest
from segue.types import ChatInput, TokenInput, TurnInput


class IdEncoder:
    """Takes the place of a `PromptEncoder`."""

    def encode(self, turn_input: TurnInput) -> tuple[int, ...]:
        """Raises InvalidRequest for all that would have to be tokenised."""
        if isinstance(turn_input, TokenInput):
            return turn_input.token_ids
        got = "chat messages" if isinstance(turn_input, ChatInput) else "text"
        raise InvalidRequest(
            f"expected token ids, got {got}: this model is served without a tokenizer "
            "([checkpoint] skip_tokenizer); tokenise on your side, or serve it with its tokenizer"
        )

    def branch_points(self, prompt: Sequence[int]) -> tuple[int, ...]:
        """Without a vocabulary nobody knows where a message begins."""
        return ()
