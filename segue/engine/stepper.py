"""All of the steps on one device: the rows of its sequences, and how a step is started."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch

from segue.engine.buckets import Buckets
from segue.engine.device_sampling import DeviceSampling
from segue.engine.graphs import StepGraphs
from segue.engine.launcher import EagerLauncher, GraphLauncher, Launched, Launcher, StepRequest
from segue.engine.runner import ModelRunner
from segue.engine.step_buffers import RowStart, StepTables
from segue.engine.stream import WorkStream
from segue.types import Sampling


class Stepper:
    """Of one engine, on its thread. A row belongs to a sequence from `start` until the caller gives
    it to another one."""

    def __init__(
        self,
        tables: StepTables,
        sampling: DeviceSampling,
        launcher: Launcher,
        stream: WorkStream,
    ) -> None:
        self._stream = stream
        self._tables = tables
        self._sampling = sampling
        self._launcher = launcher

    @classmethod
    def of(cls, runner: ModelRunner, *, num_rows: int, max_batch: int, max_drafts: int) -> Self:
        """For a runner that was loaded with scratch units. On a CUDA device this captures steps,
        which takes a while; on a CPU they run as they are."""
        assert runner.scratch is not None, "a step needs units to write what is for nobody"
        max_context = runner.config.max_position_embeddings
        page_tokens = runner.layout.page_tokens
        device, stream = runner.device, WorkStream(runner.device)
        tables = StepTables(
            num_rows=num_rows,
            max_slots=max_drafts + 2,
            max_context=max_context,
            page_tokens=page_tokens,
            scratch=runner.scratch,
            device=device,
        )
        sampling = DeviceSampling(
            num_rows=num_rows, vocab_size=runner.config.vocab_size, device=device
        )
        step = runner.device_step(tables, sampling)
        if device == "cpu":
            return cls(tables, sampling, EagerLauncher(step, tables), stream)
        buckets = Buckets(
            max_batch=max_batch,
            max_drafts=max_drafts,
            max_context=tables.max_pages * page_tokens,
            page_tokens=page_tokens,
        )
        graphs = StepGraphs(step, tables, max_batch=max_batch)
        # The tables were filled on another stream.
        torch.cuda.synchronize()
        with stream.use():
            graphs.capture(buckets.first_shapes())
        return cls(tables, sampling, GraphLauncher(graphs, tables, buckets), stream)

    @property
    def num_ahead(self) -> int:
        return self._launcher.num_ahead

    def start(
        self,
        row: int,
        start: RowStart,
        params: Sampling,
        *,
        prompt_ids: Sequence[int],
        answer_ids: Sequence[int],
    ) -> None:
        """For the steps that are launched from here on."""
        with self._stream.use():
            self._tables.start(row, start)
            self._sampling.start(row, params, prompt_ids=prompt_ids, answer_ids=answer_ids)

    def launch(self, request: StepRequest) -> Launched:
        with self._stream.use():
            return self._launcher.launch(request)
