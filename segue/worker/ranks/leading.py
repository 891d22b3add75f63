"""The runner of a leader: its followers run every pass too, each with its part of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from segue.engine.batch import Chunk, DraftStart
from segue.engine.runner import ModelRunner
from segue.engine.scoring import TokenScores
from segue.engine.speculation.drafter import Drafter
from segue.parallel.followers import Followers


class LeadingRunner(ModelRunner):
    """Tells the followers what to run, then runs it. Ranks wait for each other inside a pass, so
    what was told must run here too: an error before it does ends the worker."""

    followers: Followers

    def forward(
        self,
        chunks: Sequence[Chunk],
        *,
        on_layer: Callable[[int], None] | None = None,
        on_scores: Callable[[int, TokenScores], None] | None = None,
    ) -> Tensor:
        self.followers.tell("forward", tuple(chunks))
        return super().forward(chunks, on_layer=on_layer, on_scores=on_scores)

    def drafter(self, starts: Sequence[DraftStart]) -> Drafter:
        self.followers.tell("drafter", tuple(starts))
        return _LeadingDrafter(super().drafter(starts), self.followers)

    def close(self) -> None:
        self.followers.close()


class _LeadingDrafter(Drafter):
    def __init__(self, own: Drafter, followers: Followers) -> None:
        self._own = own
        self._followers = followers

    def step(self, token_ids: Sequence[int]) -> Tensor:
        self._followers.tell("draft", list(token_ids))
        return self._own.step(token_ids)
