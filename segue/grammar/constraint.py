"""The tokens that may come next in one answer, by the state of its grammar and its minimal length.

    in reasoning ─ </think> ─▶ in the grammar ─ end token ─▶ over
      no end token               what it allows               no restriction

End tokens are allowed only where the grammar may end. Before `min_tokens` they are not allowed
either, unless the grammar allows nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from segue.api.errors import InvalidRequest
from segue.grammar.compiler import CompiledGrammar, num_words


class _Taken(NamedTuple):
    """The changes by one token, to undo it."""

    was_in_reasoning: bool
    is_in_grammar: bool


class Constraint:
    """One thread at a time. Drafts are taken like tokens, and then taken back."""

    def __init__(
        self,
        *,
        vocab_size: int,
        end_ids: Iterable[int],
        min_tokens: int = 0,
        grammar: CompiledGrammar | None = None,
        reasoning_end: int | None = None,
    ) -> None:
        """`reasoning_end`: the grammar starts after this token; None: at the first token."""
        self.end_ids = sorted(set(end_ids))
        self.reasoning_end = reasoning_end if grammar else None
        self._min_tokens = min_tokens
        self._allowed = None if grammar is None else grammar.allowed_words
        self._matcher = None if grammar is None else grammar.matcher(self.end_ids)
        self._is_in_reasoning = self.reasoning_end is not None
        self._taken: list[_Taken] = []
        self._all = np.full(num_words(vocab_size), -1, dtype=np.int32)
        self._not_ends = self._all.copy()
        for token_id in self.end_ids:
            self._not_ends.view(np.uint32)[token_id // 32] &= ~np.uint32(1 << token_id % 32)

    @property
    def follows_grammar(self) -> bool:
        """The next mask depends on the token before it."""
        return self._matcher is not None and not self._is_in_reasoning

    @property
    def num_steady(self) -> int | None:
        """For how many tokens the mask stays the same, up to and including `reasoning_end`; None
        for the rest of the answer. Only if it does not follow a grammar."""
        if self._is_in_reasoning:
            return None
        left = self._min_tokens - len(self._taken)
        return left if left > 0 else None

    @property
    def is_masking(self) -> bool:
        """Whether the next token needs a mask."""
        is_short = bool(self.end_ids) and len(self._taken) < self._min_tokens
        return self._matcher is not None or is_short

    def mask(self) -> np.ndarray:
        """The tokens that may come next: int32 words of bits, [vocabulary / 32]."""
        if not self.follows_grammar:
            return self._not_ends if self.is_masking else self._all
        assert self._matcher is not None
        if self._matcher.is_terminated():
            return self._all
        words = self._all.copy()
        self._matcher.fill_next_token_bitmask(words.reshape(1, -1))
        if self._allowed is not None:
            # The allowed ones have no end tokens.
            words &= self._allowed | ~self._not_ends
        if len(self._taken) < self._min_tokens and (words & self._not_ends).any():
            words &= self._not_ends
        if not words.any():
            # A schema may have parts that no value fits.
            words |= ~self._not_ends
        return words

    def masks_along(self, drafts: Sequence[int]) -> list[np.ndarray]:
        """The mask of the next token, and of the token after each draft, up to the first draft that
        is not allowed; the drafts after it do not matter."""
        masks = [self.mask()]
        for draft in drafts:
            if not masks[-1].view(np.uint32)[draft // 32] >> draft % 32 & 1:
                break
            self._take(draft)
            masks.append(self.mask())
        self.take_back(len(masks) - 1)
        return masks

    def take(self, token_ids: Sequence[int]) -> None:
        """The answer's next tokens, or drafts. Raises InvalidRequest if the grammar forbids one."""
        for token_id in token_ids:
            self._take(token_id)

    def take_back(self, num_tokens: int) -> None:
        """Undoes the last tokens."""
        for _ in range(num_tokens):
            taken = self._taken.pop()
            self._is_in_reasoning = taken.was_in_reasoning
            if taken.is_in_grammar:
                assert self._matcher is not None
                self._matcher.rollback(1)

    def _take(self, token_id: int) -> None:
        was_in_reasoning = self._is_in_reasoning
        is_in_grammar = False
        if was_in_reasoning:
            self._is_in_reasoning = token_id != self.reasoning_end
        elif self._matcher is not None and not self._matcher.is_terminated():
            is_in_grammar = self._matcher.accept_token(token_id)
            if not is_in_grammar and token_id not in self.end_ids:
                raise InvalidRequest(
                    f"token {token_id} of the answer does not follow the turn's grammar"
                )
        self._taken.append(_Taken(was_in_reasoning, is_in_grammar))
