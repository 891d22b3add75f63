"""Starts steps and gives their results when they are there: the host's side of a device step.

    host    launch n+1 ── read n ── text, events ── launch n+2 ── read n+1 ── …
    device  ── step n ──│── step n+1 ──────────────────│── step n+2 ── …

On a CUDA device a launch returns at once and a result is a vector in pinned memory with an event
behind it. The copy is on the steps' own stream: it is one of a few hundred bytes, and on another
stream the next step would have to wait for it before it overwrites the vector. On a CPU a launch is
the step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from segue.engine.buckets import Buckets, StepShape
from segue.engine.device_step import DeviceStep
from segue.engine.graphs import StepGraphs
from segue.engine.step_buffers import StepTables, to_device
from segue.engine.step_result import Stepped, unpack
from segue.kernels.sampling import Needs

Run = Callable[[Sequence[int], StepShape], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRequest:
    """Which sequences go on, and what the host knows of how far they may come."""

    rows: Sequence[int]
    num_drafts: int
    max_position: int
    """Of the last token of any of them, at most: counting what steps in flight may accept."""
    num_logprobs: Sequence[int | None]
    """How many best tokens each sequence wants beside its own; None for no log-probabilities."""
    needs: Needs
    """Of sampling, of all of them."""


class Launched(Protocol):
    """A step that is under way, or done."""

    def wait(self) -> list[Stepped]:
        """What it made of each sequence, in the order of the request."""
        ...

    @property
    def seconds(self) -> float:
        """The device's time for it. After `wait`."""
        ...


class Launcher(Protocol):
    num_ahead: int
    """Steps to launch before the oldest one's result is read."""

    def launch(self, request: StepRequest) -> Launched: ...


class EagerLauncher:
    """Runs steps as they are, in the shapes that they have."""

    num_ahead = 0

    def __init__(self, step: DeviceStep, tables: StepTables) -> None:
        self._step = step
        self._tables = tables

    def launch(self, request: StepRequest) -> Launched:
        shape = exact_shape(request, self._tables.page_tokens)
        started_at = time.perf_counter()
        values = self._step.run(to_device(request.rows, self._tables.device), shape)
        stepped = unpack(values.cpu(), shape, request.num_logprobs)
        return Done(stepped, time.perf_counter() - started_at)


@dataclass(frozen=True, slots=True)
class Done:
    stepped: list[Stepped]
    seconds: float

    def wait(self) -> list[Stepped]:
        return self.stepped


class GraphLauncher:
    """Replays captured steps on a CUDA device, padded to the captured shapes."""

    num_ahead = 1

    def __init__(self, graphs: StepGraphs, tables: StepTables, buckets: Buckets) -> None:
        self._graphs = graphs
        self._tables = tables
        self._buckets = buckets

    def launch(self, request: StepRequest) -> Launched:
        shape = self._buckets.shape_of(exact_shape(request, self._tables.page_tokens))
        num_padding = shape.num_sequences - len(request.rows)
        rows = [*request.rows, *[self._tables.pad_row] * num_padding]
        started, ended = (_event() for _ in range(2))
        started.record()
        result = self._graphs.run(rows, shape)
        # Pinned memory that a copy still fills is not given out again; see `to_device`.
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
