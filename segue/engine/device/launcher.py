"""Launches steps on one device and returns their results when they are ready.

    host    launch n+1 ── read n ── text, events ── launch n+2 ── read n+1 ── …
    device  ── step n ──│── step n+1 ──────────────────│── step n+2 ── …

On a CUDA device a launch returns at once; its result is a vector in pinned memory, followed by an
event. The copy, a few hundred bytes, runs on the steps' own stream: on another stream the next step
would have to wait for it before overwriting the vector. On a CPU a launch runs the whole step.

A step whose drafts must follow a grammar is two launches. In between the host waits for the drafts,
and finds the masks of the rounds that verify them:

    host    launch half ── read drafts ── masks ── launch half ── …
    device  ── draft ──│                       │── verify ──│
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from segue.api.types import Sampling
from segue.engine.device.buckets import Buckets, StepShape
from segue.engine.device.buffers import RowStart, StepTables, to_device
from segue.engine.device.graphs import StepGraphs
from segue.engine.device.result import Stepped, unpack
from segue.engine.device.sampling import DeviceSampling
from segue.engine.device.step import DeviceStep
from segue.engine.device.stream import WorkStream
from segue.engine.runner import ModelRunner
from segue.kernels.sampling import SamplingFeatures

FindMasks = Callable[[Sequence[Sequence[int]]], Mapping[int, Sequence[np.ndarray]]]
"""From the drafts of each sequence, in the order of the request, to masks by row: those of the
rounds up to the first draft that is not allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRequest:
    """Which sequences take a step, and how far the host knows they may get."""

    rows: Sequence[int]
    num_drafts: int
    max_position: int
    """Upper bound on any sequence's last position, counting what steps in flight may accept."""
    num_logprobs: Sequence[int | None]
    """Top log-probabilities per sequence, besides the sampled token's; None for none at all."""
    needs: SamplingFeatures
    """The sampling features that any of the sequences needs."""
    find_masks: FindMasks | None = None
    """If some sequences follow a grammar and there are drafts."""


class Launched(Protocol):
    """A step in flight, or done."""

    def wait(self) -> list[Stepped]:
        """The result for each sequence, in the order of the request."""
        ...

    @property
    def seconds(self) -> float | None:
        """Device time of the step, after `wait`. None if the host computed it."""
        ...


Run = Callable[[StepRequest], Launched]


class Launcher:
    """The rows of an engine's sequences on one device, and the steps over them. Single-threaded.

    A row belongs to a sequence from `start` until the caller starts another one in it.
    """

    def __init__(
        self,
        tables: StepTables,
        sampling: DeviceSampling,
        run: Run,
        stream: WorkStream,
        *,
        num_ahead: int,
    ) -> None:
        self._tables = tables
        self._sampling = sampling
        self._run = run
        self._stream = stream
        self.num_rows = tables.num_rows
        self.num_ahead = num_ahead
        """Steps to launch before the oldest one's result is read."""

    @classmethod
    def of(cls, runner: ModelRunner, *, num_rows: int, max_batch: int, max_drafts: int) -> Self:
        """For a runner that was loaded with scratch units. On a CUDA device this captures steps,
        which takes a while; on a CPU steps run eagerly."""
        assert runner.scratch is not None, "a step needs scratch units for padding"
        max_context = runner.config.max_position_embeddings
        page_tokens = runner.layout.page_tokens
        device = runner.device
        stream = WorkStream(device) if runner.num_ranks == 1 else runner.stream
        tables = StepTables(
            num_rows=num_rows,
            max_slots=max_drafts + 2,
            max_context=max_context,
            page_tokens=page_tokens,
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
            return cls(tables, sampling, partial(run_eagerly, step, tables), stream, num_ahead=0)
        buckets = Buckets(max_batch=max_batch, max_drafts=max_drafts, num_pages=tables.max_pages)
        graphs = StepGraphs(step, tables, max_batch=max_batch)
        # The tables were filled on another stream.
        torch.cuda.synchronize()
        with stream.use():
            graphs.capture(buckets.shapes())
        return cls(tables, sampling, partial(replay, graphs, tables, buckets), stream, num_ahead=1)

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
        """Lets the row get this many tokens, each one that the mask has. With `is_first` it is only
        the next token's: `StepRequest.find_masks` finds those after drafts. Takes effect for every
        step launched after this call."""
        with self._stream.use():
            self._tables.set_left(row, num_left)
            if is_first and mask is not None:
                self._sampling.set_masks(row, [mask])
            else:
                self._sampling.set_mask(row, mask)

    def launch(self, request: StepRequest) -> Launched:
        with self._stream.use():
            return self._run(request)


@dataclass(frozen=True, slots=True)
class Done:
    stepped: list[Stepped]
    seconds: None = None

    def wait(self) -> list[Stepped]:
        return self.stepped


def run_eagerly(step: DeviceStep, tables: StepTables, request: StepRequest) -> Done:
    """Run a step unpadded, in its exact shape; done when this returns."""
    shape = exact_shape(request, tables.page_tokens)
    row_ids_B = to_device(request.rows, tables.device)
    if request.find_masks is not None:
        drafts_BK = step.run(row_ids_B, replace(shape, half="draft"))
        step.set_masks(request.find_masks(drafts_BK.tolist()))
        shape = replace(shape, half="verify")
    values = step.run(row_ids_B, shape)
    return Done(unpack(values.cpu(), shape, request.num_logprobs))


def replay(
    graphs: StepGraphs, tables: StepTables, buckets: Buckets, request: StepRequest
) -> Launched:
    """Replay a captured step on a CUDA device, padded to a captured shape."""
    exact = exact_shape(request, tables.page_tokens)
    shape = buckets.shape_of(exact if request.find_masks is None else replace(exact, half="draft"))
    num_padding = shape.num_sequences - len(request.rows)
    rows = [*request.rows, *[tables.pad_row] * num_padding]
    started, ended = (_event() for _ in range(2))
    started.record()
    if request.find_masks is not None:
        # Waits for the drafts, and so for the steps before.
        drafts_BK = graphs.run(rows, shape).cpu()
        graphs.set_masks(request.find_masks(drafts_BK[: len(request.rows)].tolist()))
        shape = replace(shape, half="verify")
    result = graphs.run(rows, shape)
    # torch does not reuse pinned memory that a copy still fills; see `to_device`.
    values = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
    values.copy_(result, non_blocking=True)
    ended.record()
    return _InFlight(values, shape, request.num_logprobs, started, ended)


@dataclass(frozen=True, slots=True)
class _InFlight:
    values: Tensor
    shape: StepShape
    num_logprobs: Sequence[int | None]
    started: torch.cuda.Event
    ended: torch.cuda.Event

    def wait(self) -> list[Stepped]:
        self.ended.synchronize()
        return unpack(self.values, self.shape, self.num_logprobs)

    @property
    def seconds(self) -> float:
        return float(self.started.elapsed_time(self.ended)) / 1e3


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's


def exact_shape(request: StepRequest, page_tokens: int) -> StepShape:
    return StepShape(
        len(request.rows),
        request.num_drafts,
        -(-(request.max_position + request.num_drafts + 1) // page_tokens),
        with_logprobs=any(num is not None for num in request.num_logprobs),
        needs=request.needs,
    )
