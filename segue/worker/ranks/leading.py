"""The runner of a leader: its followers run every pass too, each with its part of the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from segue.engine.batch import Chunk, DraftStart
from segue.engine.runner import ModelRunner
from segue.engine.scoring import TokenScores
from segue.engine.speculation.drafter import Drafter
from segue.parallel.followers import Followers
from segue.parallel.rank import RanksLost


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
        with _or_lost():
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
        with _or_lost():
            return self._own.step(token_ids)


@contextlib.contextmanager
def _or_lost() -> Iterator[None]:
    """The other ranks run what this one does not finish, and would mistake its next sum for one of
    that."""
    try:
        yield
    except RanksLost:
        raise
    except Exception as error:
        raise RanksLost(f"this rank failed in a pass: {type(error).__name__}: {error}") from error
