"""Captured steps equal eager ones, regardless of earlier contents of the tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segue.api.types import Sampling
from segue.engine.device.buckets import Buckets
from segue.engine.device.buffers import RowStart, StepTables
from segue.engine.device.graphs import StepGraphs
from segue.engine.device.launcher import Launcher, Run, StepRequest
from segue.engine.device.sampling import DeviceSampling
from segue.engine.device.stream import WorkStream
from segue.kernels.sampling import EVERYTHING
from tests.runners import new_runner

pytestmark = pytest.mark.gpu

PAGE_TOKENS = 16
NUM_ROWS = 6
MAX_DRAFTS = 3
MAX_SLOTS = MAX_DRAFTS + 2
PARAMS = [
    Sampling(),
    Sampling(temperature=0.8, top_p=0.9, seed=5),
    Sampling(temperature=1.0, logit_bias={5: 9.0, 9: 8.5}, frequency_penalty=0.2, seed=6),
]


class Device:
    """Six sequences with random caches, on separate tables."""

    def __init__(self, folder: Path, *, is_captured: bool) -> None:
        self.runner = new_runner(
            folder,
            dtype="bfloat16",
            device="cuda",
            page_tokens=PAGE_TOKENS,
            num_pages=NUM_ROWS * 4,
            num_slots=NUM_ROWS * MAX_SLOTS,
            with_scratch=True,
        )
        generator = torch.Generator("cuda").manual_seed(1)
        for _, tensor in self.runner.tensors.fields():
            tensor.normal_(generator=generator)
        assert self.runner.scratch is not None
        self.tables = StepTables(
            num_rows=NUM_ROWS,
            max_slots=MAX_SLOTS,
            max_context=64,
            page_tokens=PAGE_TOKENS,
            scratch=self.runner.scratch,
            device="cuda",
        )
        self.sampling = DeviceSampling(
            num_rows=NUM_ROWS, vocab_size=self.runner.config.vocab_size, device="cuda"
        )
        step = self.runner.device_step(self.tables, self.sampling)
        run: Run = step.run_eagerly
        buckets = None
        if is_captured:
            buckets = Buckets(
                max_batch=NUM_ROWS, max_drafts=MAX_DRAFTS, num_pages=self.tables.max_pages
            )
            graphs = StepGraphs(step, self.tables, max_batch=NUM_ROWS)
            graphs.capture(buckets.shapes())
            run = graphs.run
        # Steps run on the current stream.
        stream = WorkStream("cpu")
        self.launch = Launcher(self.tables, self.sampling, run, stream, buckets).launch

    def start(self, row: int, position: int) -> None:
        slots = range(row * MAX_SLOTS, (row + 1) * MAX_SLOTS)
        self.tables.start(
            row,
            RowStart(
                last_token=20 + row,
                position=position,
                num_left=64 - position,
                page_ids=range(row * 4, row * 4 + 4),
                slots=slots,
                state=slots[0],
                checkpoint=None,
                end_ids=(),
            ),
        )
        params = replace(PARAMS[row % 3], logprobs=2)
        self.sampling.start(row, params, prompt_ids=(1, 2, 3), answer_ids=(20 + row,))

    def step(self, rows: list[int], num_drafts: int) -> list[list[int]]:
        launched = self.launch(
            StepRequest(
                rows=rows,
                num_drafts=num_drafts,
                max_position=60,
                num_logprobs=[None] * len(rows),
                needs=EVERYTHING,
            )
        )
        return [[token.token_id for token in one.tokens] for one in launched.wait()]


def test_captured_steps_give_the_tokens_of_eager_ones(mtp_dense: Path) -> None:
    """With rows that are restarted, in alternating shapes."""
    eager, captured = (Device(mtp_dense, is_captured=c) for c in (False, True))
    tokens: list[list[list[int]]] = []
    for device in (eager, captured):
        of_device = []
        for row in range(NUM_ROWS):
            device.start(row, 5 + 3 * row)
        for step in range(8):
            of_device += device.step([0, 2, 3][: 1 + step % 3], step % (MAX_DRAFTS + 1))
            of_device += device.step(list(range(NUM_ROWS)), 1)
            device.start(step % NUM_ROWS, 9 + step)
        tokens.append(of_device)

    assert tokens[0] == tokens[1]


def test_a_launch_returns_before_its_step_is_done(mtp_dense: Path) -> None:
    device = Device(mtp_dense, is_captured=True)
    device.start(0, 5)
    device.step([0], 2)
    request = StepRequest(
        rows=[0], num_drafts=2, max_position=60, num_logprobs=[None], needs=EVERYTHING
    )

    torch.cuda._sleep(200_000_000)
    launched = device.launch(request)
    is_done = torch.cuda.current_stream().query()
    (stepped,) = launched.wait()

    assert not is_done
    assert stepped.tokens
    assert launched.seconds is not None
    assert launched.seconds > 0


def test_a_launcher_captures_at_start_up(mtp_dense: Path) -> None:
    runner = new_runner(
        mtp_dense,
        dtype="bfloat16",
        device="cuda",
        page_tokens=PAGE_TOKENS,
        num_pages=8,
        num_slots=8,
        with_scratch=True,
    )

    launcher = Launcher.of(runner, num_rows=2, max_batch=2, max_drafts=1)

    assert launcher.num_ahead == 1
