"""Decode steps as the engine launches them, with captured graphs and one step ahead; captured
without dependent launches; and not captured."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor

from benchmarks.gpu.models import Shape
from benchmarks.gpu.passes.costs import ModelCosts
from benchmarks.gpu.passes.prompts import PAGE_TOKENS, PassRow, Workload, runner_of
from benchmarks.gpu.timing import Ceilings
from segue.api.types import Sampling
from segue.engine.device.buckets import Buckets, StepShape
from segue.engine.device.buffers import RowStart, StepTables
from segue.engine.device.graphs import StepGraphs
from segue.engine.device.launcher import Launched, Launcher, StepRequest
from segue.engine.device.sampling import DeviceSampling
from segue.engine.device.stream import WorkStream
from segue.engine.runner import ModelRunner
from segue.kernels import dependent_launch
from segue.kernels.sampling import SamplingFeatures

_WARM_UPS = 3
_MAX_CONTEXT = 1 << 18
"""The width of the published models' page tables."""
_GREEDY = SamplingFeatures()

Tokens = list[list[list[int]]]
"""The tokens of each step, by sequence."""


def measure(
    shape: Shape,
    weights: Mapping[str, Tensor],
    workload: Workload,
    ceilings: Ceilings,
    device: str,
) -> Iterator[PassRow]:
    """Greedy, with identical sequences. Captured steps must give the tokens of eager ones."""
    max_batch, max_slots = max(workload.batch_sizes), workload.num_drafts + 2
    longest = workload.context + (_WARM_UPS + workload.num_steps) * (workload.num_drafts + 1)
    pages_each = -(-longest // PAGE_TOKENS)
    runner = runner_of(
        shape,
        weights,
        num_pages=max_batch * pages_each,
        num_slots=max_batch * max_slots,
        device=device,
    )
    costs = ModelCosts.of(runner.config, weights, runner.layout)
    first: dict[tuple[int, int], Tokens] = {}
    # Each run starts from the same cache.
    before = [tensor.clone() for _, tensor in runner.tensors.fields()]
    for how, launcher, tables, sampling in _runs(runner, workload, longest, device):
        for batch in workload.batch_sizes:
            for num_drafts in (0, workload.num_drafts):
                for (_, tensor), old in zip(runner.tensors.fields(), before, strict=True):
                    tensor.copy_(old)
                for row in range(batch):
                    start = _start(row, workload.context, pages_each, max_slots)
                    tables.start(row, start)
                    sampling.start(row, Sampling(), prompt_ids=(), answer_ids=())
                seconds, tokens = _step_s(launcher, batch, num_drafts, workload)
                num_bytes = costs.decode_bytes(batch, workload.context, num_drafts + 1)
                yield PassRow(
                    model=shape.name,
                    kind=f"decode, {how}" + (f", {num_drafts} drafts" if num_drafts else ""),
                    num_tokens=batch,
                    seconds=seconds,
                    tokens_per_s=batch / seconds,
                    floor_s=ceilings.floor_s(num_bytes, 0.0),
                    is_right=tokens == first.setdefault((batch, num_drafts), tokens),
                )


def _runs(
    runner: ModelRunner, workload: Workload, longest: int, device: str
) -> Iterator[tuple[str, Launcher, StepTables, DeviceSampling]]:
    """The ways to run steps, each on the current stream."""
    assert runner.scratch is not None
    max_batch = max(workload.batch_sizes)
    tables = StepTables(
        num_rows=max_batch,
        max_slots=workload.num_drafts + 2,
        max_context=max(longest, _MAX_CONTEXT),
        page_tokens=PAGE_TOKENS,
        scratch=runner.scratch,
        device=device,
    )
    sampling = DeviceSampling(
        num_rows=max_batch, vocab_size=runner.config.vocab_size, device=device
    )
    step = runner.device_step(tables, sampling)
    # Steps run on the current stream.
    stream = WorkStream("cpu")
    yield "no graph", Launcher(tables, sampling, step.run_eagerly, stream), tables, sampling
    if device == "cpu":
        return
    buckets = Buckets(
        max_batch=max_batch,
        max_drafts=workload.num_drafts,
        num_pages=tables.max_pages,
    )
    shapes = [
        buckets.shape_of(StepShape(batch, num_drafts, 1, needs=_GREEDY))
        for batch in workload.batch_sizes
        for num_drafts in {0, workload.num_drafts}
    ]
    # A separate stream: graphs cannot be captured on the default one.
    with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]  # torch's
        for how, launches in (
            ("graph", nullcontext()),
            ("graph without dependent launches", dependent_launch.off()),
        ):
            with launches:
                graphs = StepGraphs(step, tables, max_batch=max_batch)
                graphs.capture(shapes)
                launcher = Launcher(tables, sampling, graphs.run, stream, buckets)
                yield how, launcher, tables, sampling


def _start(row: int, context: int, pages_each: int, num_slots: int) -> RowStart:
    first = row * num_slots
    return RowStart(
        last_token=row + 1,
        position=context,
        num_left=1 << 20,
        page_ids=range(row * pages_each, (row + 1) * pages_each),
        slots=range(first, first + num_slots),
        state=first,
        checkpoint=None,
        end_ids=(),
    )


def _step_s(
    launcher: Launcher, batch: int, num_drafts: int, workload: Workload
) -> tuple[float, Tokens]:
    """Seconds by the host's clock, with results read, as a user's token waits for; and tokens."""
    under_way: deque[Launched] = deque()
    started_at = 0.0
    seen: Tokens = []

    def read() -> None:
        seen.append([[t.token_id for t in one.tokens] for one in under_way.popleft().wait()])

    for number in range(_WARM_UPS + workload.num_steps):
        if number == _WARM_UPS:
            while under_way:
                read()
            started_at = time.perf_counter()
        under_way.append(
            launcher.launch(
                StepRequest(
                    rows=range(batch),
                    num_drafts=num_drafts,
                    max_position=workload.context + (number + 1) * (num_drafts + 1),
                    num_logprobs=[None] * batch,
                    needs=_GREEDY,
                )
            )
        )
        if len(under_way) > launcher.num_ahead:
            read()
    while under_way:
        read()
    return (time.perf_counter() - started_at) / workload.num_steps, seen
