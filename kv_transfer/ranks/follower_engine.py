"""The engine thread of a follower: passes, drafts and steps, as its leader runs them."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from kv_transfer.writing.outgoing import Outgoing
from segue.engine.batch import Chunk, DraftStart, PrefillChunk
from segue.engine.device.launcher import Launcher, StepRequest
from segue.engine.runner import ModelRunner
from segue.engine.speculation.drafter import Drafter

Masks = Mapping[int, Sequence[np.ndarray]]


Ship = Callable[[int], None]
"""Ships the announced part of a layer."""


class FollowerEngine:
    """Runs what the leader runs. On the engine thread, except where noted."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._drafter: Drafter | None = None
        self._launcher: Launcher | None = None
        self._masks: queue.SimpleQueue[Masks] = queue.SimpleQueue()
        self._announced: list[Ship] = []

    def announce(self, outgoing: Outgoing, pages: range, with_slot: bool) -> None:
        """For the next pass. On the receiving thread, like `take_announced`."""
        self._announced.append(partial(outgoing.layer_ready, pages=pages, with_slot=with_slot))

    def take_announced(self) -> Sequence[Ship]:
        announced, self._announced = self._announced, []
        return announced

    def forward(self, chunks: Sequence[Chunk], announced: Sequence[Ship]) -> None:
        def ship_all(layer: int) -> None:
            for ship in announced:
                ship(layer)

        # The leader uses the scores, but all ranks compute their logits.
        scores = any(isinstance(chunk, PrefillChunk) and chunk.scored_ids for chunk in chunks)
        self._runner.forward(
            chunks, on_layer=ship_all, on_scores=(lambda index, scores: None) if scores else None
        )

    def first_passes(self, passes: Mapping[str, Any]) -> None:
        self._runner.first_passes(**passes)

    def start_drafts(self, starts: Sequence[DraftStart]) -> None:
        self._drafter = self._runner.drafter(starts)

    def draft(self, token_ids: Sequence[int]) -> None:
        assert self._drafter is not None, "the leader sends the starts first"
        self._drafter.step(token_ids)

    def make_launcher(self, sizes: Mapping[str, int]) -> None:
        self._launcher = Launcher.of(self._runner, **sizes)

    @property
    def launcher(self) -> Launcher:
        assert self._launcher is not None, "the leader makes its own first"
        return self._launcher

    def start_row(self, arguments: Sequence[Any], options: Mapping[str, Any]) -> None:
        self.launcher.start(*arguments, **options)

    def resume_row(self, arguments: Sequence[Any], options: Mapping[str, Any]) -> None:
        self.launcher.resume(*arguments, **options)

    def launch(self, request: StepRequest, waits_for_masks: bool) -> None:
        """All ranks have the same result; the leader reads it."""
        find = (lambda _: self._masks.get()) if waits_for_masks else None
        self.launcher.launch(replace(request, find_masks=find))

    def take_masks(self, masks: Masks) -> None:
        """On the receiving thread: the engine thread waits for them."""
        self._masks.put(masks)
