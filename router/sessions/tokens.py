"""Clients' calls about tokens alone: no turn, no session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from router.sessions.prompt import PromptBuilder
from segue.api.errors import InvalidRequest
from segue.api.types import ChatInput, Detokenized, TurnInput
from segue.text.ids_only import IdEncoder
from segue.text.limits import SizeLimits, validate_prompt


@dataclass(frozen=True, slots=True)
class TokenDesk:
    prompts: PromptBuilder
    limits: SizeLimits

    async def tokenize(self, turn_input: TurnInput) -> Sequence[int]:
        """The prompt that a turn with this input would have. Raises InvalidRequest, ContextOverflow
        and Overloaded."""
        if isinstance(turn_input, ChatInput) and turn_input.continues is not None:
            raise InvalidRequest("expected all messages to tokenise, got a continued history")
        self.limits.validate(turn_input)
        return await self.prompts.encode(turn_input)

    def detokenize(self, token_ids: Sequence[int]) -> Detokenized:
        """Raises InvalidRequest."""
        if isinstance(self.prompts.encoder, IdEncoder):
            raise InvalidRequest(
                "expected a model with a tokenizer, but this one is served without "
                "([checkpoint] skip_tokenizer): detokenise on your side"
            )
        if len(token_ids) > self.limits.max_context:
            raise InvalidRequest(
                f"expected at most {self.limits.max_context} token ids, which is the model's "
                f"context, got {len(token_ids)}: send fewer at a time"
            )
        tokenizer = self.prompts.encoder.tokenizer
        if token_ids:
            validate_prompt(token_ids, self.prompts.config.vocab_size)
        return Detokenized(
            text=tokenizer.decode(token_ids),
            tokens=tuple(map(tokenizer.token_name, token_ids)),
        )
