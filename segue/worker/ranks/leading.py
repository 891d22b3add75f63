"""Passes and steps that a leader and its followers run together, each on its part of the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from torch import Tensor

from segue.engine.batch import Chunk, DraftStart
from segue.engine.device.launcher import FindMasks, Launched, Launcher, StepRequest
from segue.engine.runner import ModelRunner
from segue.engine.scoring import TokenScores
from segue.engine.speculation.drafter import Drafter
from segue.parallel.followers import Followers
from segue.parallel.rank import RanksLost


class LeadingRunner(ModelRunner):
    """Sends each call to the followers, then runs it. Ranks wait for each other inside a pass, so a
    call that was sent must run here too: an error before that ends the worker."""

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

    def first_passes(self, **passes: Any) -> None:
        self.followers.tell("first_passes", passes)
        with _or_lost():
            super().first_passes(**passes)

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


class LeadingLauncher(Launcher):
    """Every rank keeps the rows and samples. All have the same logits and draw the same random
    numbers, so only the leader reads a step's result, and no rank waits between two steps."""

    followers: Followers

    @classmethod
    def of_all(cls, runner: ModelRunner, followers: Followers, **sizes: int) -> Self:
        """`sizes`: those of `Launcher.of`. All ranks compile and capture at the same time."""
        followers.tell("launcher", sizes)
        with _or_lost():
            launcher = cls.of(runner, **sizes)
        launcher.followers = followers
        return launcher

    def start(self, row: int, *arguments: Any, **options: Any) -> None:
        self.followers.tell("start_row", (row, *arguments), options)
        super().start(row, *arguments, **options)

    def resume(self, row: int, *arguments: Any, **options: Any) -> None:
        self.followers.tell("resume_row", (row, *arguments), options)
        super().resume(row, *arguments, **options)

    def launch(self, request: StepRequest) -> Launched:
        find = request.find_masks
        self.followers.tell("launch", replace(request, find_masks=None), find is not None)
        with _or_lost():
            if find is not None:
                request = replace(request, find_masks=self._find_and_send(find))
            return super().launch(request)

    def _find_and_send(self, find: FindMasks) -> FindMasks:
        """Also sends the masks to the followers, which wait for them in the middle of the step."""

        def find_and_send(
            drafts: Sequence[Sequence[int]],
        ) -> Mapping[int, Sequence[np.ndarray]]:
            masks = find(drafts)
            self.followers.tell("masks", masks)
            return masks

        return find_and_send


@contextlib.contextmanager
def _or_lost() -> Iterator[None]:
    """An error in a pass ends the worker: the other ranks are still in that pass, and would take
    this rank's next sum as part of it."""
    try:
        yield
    except RanksLost:
        raise
    except Exception as error:
        raise RanksLost(f"this rank failed in a pass: {type(error).__name__}: {error}") from error
