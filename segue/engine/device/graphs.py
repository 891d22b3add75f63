"""Steps that are captured once and then replayed, so that a step costs the host one call.

A graph holds the kernels of one step shape and the addresses that they work on: the tables, the
cache, the weights and the row ids. Only the row ids are written before each replay. All graphs
share one memory pool: they are replayed one after the other on one stream, and a replay's result is
copied out before the next replay overwrites it.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from segue.engine.device.buckets import MAX_GRAPHS, StepShape
from segue.engine.device.buffers import StepTables, to_device
from segue.engine.device.step import DeviceStep

logger = logging.getLogger(__name__)


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    result: Tensor


class StepGraphs:
    """Graphs of one CUDA device, used by one thread on its current stream."""

    def __init__(
        self, step: DeviceStep, tables: StepTables, *, max_batch: int, max_graphs: int = MAX_GRAPHS
    ) -> None:
        self._step = step
        self._tables = tables
        self._max_graphs = max_graphs
        self._row_ids = torch.full((max_batch,), tables.pad_row, device=tables.device)
        self._captured: OrderedDict[StepShape, _Captured] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle()

    def __len__(self) -> int:
        return len(self._captured)

    def run(self, row_ids: Sequence[int], shape: StepShape) -> Tensor:
        """As `DeviceStep.run`. The next run overwrites the result."""
        captured = self._captured.get(shape) or self._capture(shape)
        self._captured.move_to_end(shape)
        to_device(row_ids, self._tables.device, out=self._row_ids[: shape.num_sequences])
        captured.graph.replay()
        return captured.result

    def set_masks(self, masks: Mapping[int, Sequence[np.ndarray]]) -> None:
        """As `DeviceStep.set_masks`."""
        self._step.set_masks(masks)

    def capture(self, shapes: Iterable[StepShape]) -> None:
        """Capture these shapes in advance, at start-up."""
        started_at = time.monotonic()
        for shape in shapes:
            self._capture(shape)
        logger.info(
            "steps captured",
            extra={
                "num_graphs": len(self),
                "seconds": round(time.monotonic() - started_at, 1),
                "reserved_bytes": torch.cuda.memory_reserved(self._tables.device),
            },
        )

    def _capture(self, shape: StepShape) -> _Captured:
        row_ids_B = self._row_ids[: shape.num_sequences]
        row_ids_B.fill_(self._tables.pad_row)
        # Compiles kernels and makes libraries allocate, which must not happen during capture. The
        # padding row writes only to scratch units.
        self._step.run(row_ids_B, shape)
        torch.cuda.current_stream(self._tables.device).synchronize()
        if len(self._captured) >= self._max_graphs:
            _, oldest = self._captured.popitem(last=False)
            oldest.graph.reset()
        graph = torch.cuda.CUDAGraph()
        # Other threads copy and register memory meanwhile; only this thread's calls may fail it.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = self._step.run(row_ids_B, shape)
        self._captured[shape] = _Captured(graph, result)
        return self._captured[shape]
