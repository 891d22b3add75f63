"""Launches steps on one device and returns their results once they are ready.

    host    launch n+1 ── read n ── text, events ── launch n+2 ── read n+1 ── …
    device  ── step n ──│── step n+1 ──────────────────│── step n+2 ── …

On a CUDA device a launch returns at once; its result is a vector in pinned memory, followed by an
event. The copy, a few hundred bytes, runs on the steps' own stream: on another stream the next step
would have to wait for it before overwriting the vector. On a CPU a launch runs the whole step.

A step whose drafts must follow a grammar takes two launches. In between, the host waits for the
drafts and computes the masks of the rounds that verify them:

    host    launch half ── read drafts ── masks ── launch half ── …
    device  ── draft ──│                       │── verify ──│
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from segue.api.types import Sampling
from segue.engine.device.buckets import Buckets, StepShape
from segue.engine.device.buffers import RowStart, StepTables
from segue.engine.device.graphs import StepGraphs
from segue.engine.device.result import Stepped, unpack
from segue.engine.device.sampling import DeviceSampling
from segue.engine.device.stream import WorkStream
from segue.engine.runner import ModelRunner
from segue.kernels.sampling import SamplingFeatures

FindMasks = Callable[[Sequence[Sequence[int]]], Mapping[int, Sequence[np.ndarray]]]
"""From the drafts of each sequence, in the order of the request, to masks by row: one for each
round up to the first draft that is not allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRequest:
    """The sequences of a step, and the host's bounds on their positions."""

    rows: Sequence[int]
    num_drafts: int
    max_position: int
    """Upper bound on any sequence's last position, if steps in flight accept all drafts."""
    num_logprobs: Sequence[int | None]
    """Top log-probabilities per sequence, besides the sampled token's; None: no
    log-probabilities."""
    needs: SamplingFeatures
    """All sampling features that the sequences need."""
    find_masks: FindMasks | None = None
    """Set if some sequences follow a grammar and there are drafts."""


class Launched(Protocol):
    """A step in flight, or finished."""

    def wait(self) -> list[Stepped]:
        """Each sequence's result, in the order of the request."""
        ...

    @property
    def seconds(self) -> float | None:
        """Device time of the step, after `wait`. None if the host computed it."""
        ...


@dataclass(frozen=True, slots=True)
class CompletedStep:
    """A step that the host computed."""

    stepped: list[Stepped]
    seconds: None = None

    def wait(self) -> list[Stepped]:
        return self.stepped


@dataclass(frozen=True, slots=True)
class _InFlight:
    values: Tensor
    shape: StepShape
    num_logprobs: Sequence[int | None]
    events: tuple[torch.cuda.Event, torch.cuda.Event] | None
    """The start and the end of the step on the device. None on a CPU, where it is finished."""

    def wait(self) -> list[Stepped]:
        if self.events is not None:
            self.events[1].synchronize()
        return unpack(self.values, self.shape, self.num_logprobs)

    @property
    def seconds(self) -> float | None:
        if self.events is None:
            return None
        started, ended = self.events
        return float(started.elapsed_time(ended)) / 1e3


Run = Callable[[Sequence[int], StepShape], Tensor]
"""`DeviceStep.run_eagerly` or `StepGraphs.run`."""


class Launcher:
    """The rows of an engine's sequences on one device, and the steps over them. Single-threaded.

    A row belongs to a sequence until another one is started in it.
    """

    def __init__(
        self,
        tables: StepTables,
        sampling: DeviceSampling,
        run: Run,
        stream: WorkStream,
        buckets: Buckets | None = None,
    ) -> None:
        """`buckets`: the captured shapes. Steps are padded to one of them."""
        self._tables = tables
        self._sampling = sampling
        self._run = run
        self._stream = stream
        self._buckets = buckets
        self.num_rows = tables.num_rows
        self.num_ahead = 0 if buckets is None else 1
        """Steps to launch before the result of the oldest is read."""

    @classmethod
    def of(cls, runner: ModelRunner, *, num_rows: int, max_batch: int, max_drafts: int) -> Self:
        """The runner must have scratch units. On a CUDA device this captures steps, which takes a
        while; on a CPU steps run eagerly."""
        assert runner.scratch is not None, "a step needs scratch units for padding"
        device = runner.device
        stream = WorkStream(device) if runner.num_ranks == 1 else runner.stream
        tables = StepTables(
            num_rows=num_rows,
            max_slots=max_drafts + 2,
            max_context=runner.config.max_position_embeddings,
            page_tokens=runner.layout.page_tokens,
            scratch=runner.scratch,
            device=device,
        )
        sampling = DeviceSampling(
            num_rows=num_rows,
            vocab_size=runner.config.vocab_size,
            device=device,
            max_drafts=max_drafts,
        )
        step = runner.device_step(tables, sampling)
        if device == "cpu":
            return cls(tables, sampling, step.run_eagerly, stream)
        buckets = Buckets(max_batch=max_batch, max_drafts=max_drafts, num_pages=tables.max_pages)
        graphs = StepGraphs(step, tables, max_batch=max_batch)
        # The tables were filled on another stream.
        torch.cuda.synchronize()
        with stream.use():
            graphs.capture(buckets.shapes())
        return cls(tables, sampling, graphs.run, stream, buckets)

    def start(
        self,
        row: int,
        start: RowStart,
        params: Sampling,
        *,
        prompt_ids: Sequence[int],
        answer_ids: Sequence[int],
    ) -> None:
        """Takes effect for every step launched after this call."""
        with self._stream.use():
            self._tables.start(row, start)
            self._sampling.start(row, params, prompt_ids=prompt_ids, answer_ids=answer_ids)

    def resume(
        self, row: int, num_left: int, mask: np.ndarray | None, *, is_first: bool = False
    ) -> None:
        """Allows the row this many further tokens, out of those in the mask. With `is_first` the
        mask is only for the next token, and `StepRequest.find_masks` finds those after drafts.
        Takes effect for every step launched after this call."""
        with self._stream.use():
            self._tables.set_left(row, num_left)
            masks = [] if mask is None else [mask]
            self._sampling.set_masks(row, masks, by_round=is_first and mask is not None)

    def launch(self, request: StepRequest) -> Launched:
        with self._stream.use():
            return self._launch(request)

    def _launch(self, request: StepRequest) -> Launched:
        shape = self._shape_of(request)
        rows = [*request.rows]
        rows += [self._tables.pad_row] * (shape.num_sequences - len(rows))
        if self._tables.device.type == "cpu":
            return _InFlight(self._values(rows, shape, request), shape, request.num_logprobs, None)
        started, ended = (_event() for _ in range(2))
        started.record()
        result = self._values(rows, shape, request)
        # torch does not reuse pinned memory while a copy fills it; see `to_device`.
        values = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        values.copy_(result, non_blocking=True)
        ended.record()
        return _InFlight(values, shape, request.num_logprobs, (started, ended))

    def _shape_of(self, request: StepRequest) -> StepShape:
        """The exact shape, or the captured one that it fits into."""
        shape = StepShape(
            len(request.rows),
            request.num_drafts,
            -(-(request.max_position + request.num_drafts + 1) // self._tables.page_tokens),
            with_logprobs=any(num is not None for num in request.num_logprobs),
            needs=request.needs,
            half=None if request.find_masks is None else "verify",
        )
        return shape if self._buckets is None else self._buckets.shape_of(shape)

    def _values(self, rows: Sequence[int], shape: StepShape, request: StepRequest) -> Tensor:
        """The step's result, on the device."""
        if request.find_masks is not None:
            # Waits for the drafts, and so for all earlier steps.
            drafts_BK = self._run(rows, replace(shape, half="draft")).cpu()
            masks = request.find_masks(drafts_BK[: len(request.rows)].tolist())
            for row, of_row in masks.items():
                self._sampling.set_masks(row, of_row)
        return self._run(rows, shape)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's
