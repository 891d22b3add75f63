"""Prompts for a model that is served without a tokenizer: token ids only."""

from __future__ import annotations

from collections.abc import Sequence

from segue.api.errors import InvalidRequest
from segue.api.types import ChatInput, TokenInput, TurnInput
from segue.text.session_prompt import PromptRecord, SessionPrompt
from segue.text.tokens.packed_ids import id_array
from segue.text.tokens.thinking import ThinkingTokens


class IdEncoder:
    """Replaces `PromptEncoder`."""

    longest_token = 1
    num_ids = 0
    thinking = ThinkingTokens()

    def encode(self, turn_input: TurnInput) -> tuple[int, ...]:
        """Raises InvalidRequest for any input that needs a tokenizer."""
        if isinstance(turn_input, TokenInput):
            return turn_input.token_ids
        got = "chat messages" if isinstance(turn_input, ChatInput) else "text"
        raise InvalidRequest(
            f"expected token ids, got {got}: this model is served without a tokenizer "
            "([checkpoint] skip_tokenizer); tokenise on your side, or serve it with its tokenizer"
        )

    def encode_turn(
        self, turn_input: TurnInput, memory: PromptRecord | None = None, num_same: int = 0
    ) -> SessionPrompt:
        """Raises InvalidRequest, as `encode` does."""
        return SessionPrompt(num_kept=0, ids=id_array(self.encode(turn_input)))

    def branch_points(
        self, prompt: Sequence[int], turn_input: TurnInput | None = None
    ) -> tuple[int, ...]:
        """Empty: message boundaries are unknown without a vocabulary."""
        return ()
