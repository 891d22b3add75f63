"""One sequence driven by hand, as a scheduler would drive it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segue.engine.batch import PrefillChunk
from segue.engine.runner import ModelRunner
from tests.runners import logits_of_all


class RunningSequence:
    """Owns pages and a slot of the runner's cache, and knows how many tokens are in them."""

    def __init__(self, runner: ModelRunner, pages: Sequence[int], slot: int) -> None:
        self._runner = runner
        self._pages = pages
        self._slot = slot
        self._num_tokens = 0

    def take(self, token_ids: Sequence[int]) -> PrefillChunk:
        """The chunk that adds these tokens; the caller runs it."""
        start, self._num_tokens = self._num_tokens, self._num_tokens + len(token_ids)
        return PrefillChunk(
            token_ids=token_ids,
            start=start,
            page_ids=self._pages,
            slot_in=self._slot if start else None,
            slot_out=self._slot,
        )

    def prefill(self, token_ids: Sequence[int], chunk_tokens: int) -> Tensor:
        """Logits after each chunk."""
        parts = [
            token_ids[first : first + chunk_tokens]
            for first in range(0, len(token_ids), chunk_tokens)
        ]
        return torch.cat([self._runner.forward([self.take(part)]) for part in parts])

    def prefill_all(self, token_ids: Sequence[int]) -> Tensor:
        """Logits after every token, from one chunk."""
        return logits_of_all(self._runner, self.take(token_ids))

    def greedy(self, logits: Tensor, num_tokens: int) -> list[int]:
        """The first token from these logits, the others from steps."""
        tokens = [int(logits.argmax())]
        while len(tokens) < num_tokens:
            logits = self._runner.forward([self.take(tokens[-1:])])
            tokens.append(int(logits.argmax()))
        return tokens
