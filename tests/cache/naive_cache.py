"""The prefix cache as a set of token tuples: slow, obvious, and the definition of correct."""

from __future__ import annotations

from collections.abc import Collection

Tokens = tuple[int, ...]


class NaiveCache:
    """Stores which prefixes have a page at their end, and which have a checkpoint there."""

    def __init__(self, page_tokens: int) -> None:
        self.page_tokens = page_tokens
        self.prefixes: set[Tokens] = set()
        self.checkpoints: set[Tokens] = set()

    def match(self, tokens: Tokens) -> tuple[int, int | None]:
        """The number of cached tokens, and where to resume; never the page of the last token."""
        num_tokens = max((n for n in self._ends(tokens, self.prefixes)), default=0)
        resume_at = max((n for n in self._ends(tokens, self.checkpoints)), default=None)
        return num_tokens, resume_at

    def insert(self, tokens: Tokens, checkpoints: Collection[int]) -> None:
        for end in range(self.page_tokens, len(tokens) + 1, self.page_tokens):
            self.prefixes.add(tokens[:end])
        self.checkpoints |= {tokens[:end] for end in checkpoints}

    def _ends(self, tokens: Tokens, among: Collection[Tokens]) -> list[int]:
        return [n for n in range(len(tokens)) if tokens[:n] in among]
