"""Steps as CUDA graphs: captured once and then replayed, so that a step costs the host one call.

A graph holds the kernels of one step shape and their addresses: tables, cache, weights and row ids.
Only the row ids are written before each replay. All graphs share one memory pool: they are replayed
one after another on one stream, and a result is copied out before the next replay overwrites it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from segue.engine.device.buckets import StepShape
from segue.engine.device.buffers import StepTables
from segue.engine.device.step import DeviceStep
from segue.engine.device.stream import to_device
from segue.kernels.compiling import compiling, zeroed_memory

logger = logging.getLogger(__name__)

_PROGRESS_S = 5.0


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    result: Tensor


class StepGraphs:
    """The graphs of one CUDA device. Used by one thread, on its current stream."""

    def __init__(self, step: DeviceStep, tables: StepTables, *, max_batch: int) -> None:
        self._step = step
        self._tables = tables
        self._row_ids = torch.full((max_batch,), tables.pad_row, device=tables.device)
        self._captured: dict[StepShape, _Captured] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, row_ids: Sequence[int], shape: StepShape) -> Tensor:
        """As `DeviceStep.run_eagerly`, for a captured shape. The next run overwrites the result."""
        captured = self._captured[shape]
        to_device(row_ids, self._tables.device, out=self._row_ids[: shape.num_sequences])
        captured.graph.replay()
        return captured.result

    def capture(self, shapes: Iterable[StepShape]) -> None:
        """Compiles the kernels of these shapes, then captures the shapes. Called at start-up."""
        shapes = list(shapes)
        started_at = time.monotonic()
        with compiling(_Progress("kernels compiled"), ignore_errors=True), zeroed_memory():
            for shape in shapes:
                self._run_padding(shape)
        compiled_at = time.monotonic()
        progress = _Progress("steps captured")
        for number, shape in enumerate(shapes, start=1):
            self._captured[shape] = self._capture(shape)
            progress(number, len(shapes))
        logger.info(
            "steps are ready",
            extra={
                "num_graphs": len(self._captured),
                "compile_seconds": round(compiled_at - started_at, 1),
                "capture_seconds": round(time.monotonic() - compiled_at, 1),
                "reserved_bytes": torch.cuda.memory_reserved(self._tables.device),
            },
        )

    def _capture(self, shape: StepShape) -> _Captured:
        # Libraries allocate memory in the first run, which must not happen during capture. The
        # padding row writes only to scratch units.
        row_ids_B = self._run_padding(shape)
        torch.cuda.current_stream(self._tables.device).synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads copy and register memory meanwhile, which must not fail the capture.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = self._step.run(row_ids_B, shape)
        return _Captured(graph, result)

    def _run_padding(self, shape: StepShape) -> Tensor:
        row_ids_B = self._row_ids[: shape.num_sequences].fill_(self._tables.pad_row)
        self._step.run(row_ids_B, shape)
        return row_ids_B


class _Progress:
    """Logs progress every few seconds, since the worker is not ready meanwhile."""

    def __init__(self, message: str) -> None:
        self._message = message
        self._logged_at = time.monotonic()

    def __call__(self, num_done: int, num_all: int) -> None:
        if time.monotonic() - self._logged_at > _PROGRESS_S:
            self._logged_at = time.monotonic()
            logger.info(self._message, extra={"num_done": num_done, "num_all": num_all})
