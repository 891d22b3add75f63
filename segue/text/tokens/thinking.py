"""Where reasoning starts and ends among token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from segue.api.messages import THINK_END, THINK_START
from segue.text.tokens.tokenizer import Tokenizer

_MESSAGE_START = "<|im_start|>"


@dataclass(frozen=True, slots=True)
class ThinkingTokens:
    """The control tokens around reasoning. None if the vocabulary has no such token: then nothing
    counts as reasoning.
    """

    start: int | None = None
    end: int | None = None
    message_start: int | None = None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self:
        return cls(*map(tokenizer.token_id, (THINK_START, THINK_END, _MESSAGE_START)))

    def is_open(self, prompt: Sequence[int]) -> bool:
        """Whether a chat's prompt ends inside reasoning. Looks at its last message only."""
        if self.start is None:
            return False
        ends = (self.end, self.message_start)
        for token_id in reversed(prompt):
            if token_id == self.start:
                return True
            if token_id in ends:
                return False
        return False

    def num_in(self, answer: Sequence[int], *, is_open: bool) -> int:
        """The number of the answer's tokens up to the end of its reasoning. `is_open`: whether the
        prompt ended inside reasoning.
        """
        if not is_open and (self.start is None or self.start not in answer[:1]):
            return 0
        return answer.index(self.end) + 1 if self.end in answer else len(answer)
