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
        with _leading(self.followers, "forward", tuple(chunks)):
            return super().forward(chunks, on_layer=on_layer, on_scores=on_scores)

    def first_passes(self, **passes: Any) -> None:
        with _leading(self.followers, "first_passes", passes):
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
        with _leading(self._followers, "draft", list(token_ids)):
            return self._own.step(token_ids)


class LeadingLauncher(Launcher):
    """Every rank keeps the rows and samples. All have the same logits and draw the same random
    numbers, so only the leader reads a step's result, and no rank waits between two steps."""

    followers: Followers

    @classmethod
    def of_all(cls, runner: ModelRunner, followers: Followers, **sizes: int) -> Self:
        """`sizes`: those of `Launcher.of`. All ranks compile and capture at the same time."""
        with _leading(followers, "launcher", sizes):
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
        plain = replace(request, find_masks=None)
        with _leading(self.followers, "launch", plain, find is not None):
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
def _leading(followers: Followers, call: str, *arguments: object) -> Iterator[None]:
    """Sends the call to the followers; the block runs it here. An error in the block ends the
    worker: the other ranks are still in that pass, and would take this rank's next sum as part of
    it."""
    followers.tell(call, *arguments)
    try:
        yield
    except RanksLost:
        raise
    except Exception as error:
        raise RanksLost(f"this rank failed in a pass: {type(error).__name__}: {error}") from error
