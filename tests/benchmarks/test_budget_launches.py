"""A budget's launches are the code's: a whole decode step, interpreted and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import GridExecutor

from benchmarks.budget.estimate import num_launches
from benchmarks.budget.launches import Launches, decode_launches, sum_launches
from benchmarks.budget.weights import rank_weights
from benchmarks.budget.work import RankModel, decode_work
from scripts.quantize import LAYOUTS, quantize
from segue.api.types import Sampling
from segue.engine.config import EngineConfig
from segue.engine.device.buckets import FEW, StepShape
from segue.engine.device.buffers import RowStart, StepTables
from segue.engine.device.sampling import DeviceSampling
from segue.engine.device.stream import to_device
from segue.engine.runner import ModelRunner
from segue.engine.served_model import ServedModel
from segue.kernels import dispatch
from segue.model.config import ModelConfig
from segue.parallel.group import ALONE, Group, Ranks
from segue.parallel.rank import FIRST_OF_ONE, Rank
from tests.checkpoints import Variant, add_mtp_layer
from tests.conftest import MakeCheckpoint

SIZES: dict[str, object] = {
    "linear_value_head_dim": 32,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 1,
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
}
"""As tests/kernels/test_whole_model.py, which says why."""
ALLOCATIONS = ("empty", "new_empty", "empty_like")
PRODUCTS = ("linear", "mm", "addmm")


class Counter(TorchDispatchMode):
    """What would be launched on a GPU: kernels, and operations that write memory."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Launches()
        self._is_inside = False

    def kernel(self, run: Any, *args: Any, **kwargs: Any) -> None:
        self.seen += Launches(kernels=1)
        self._is_inside = True
        run(*args, **kwargs)
        self._is_inside = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        if not self._is_inside and name not in ALLOCATIONS and writes(func, args, result):
            is_product = name in PRODUCTS
            self.seen += Launches(products=is_product, operations=not is_product)
        return result


def writes(func: Any, args: Any, result: Any) -> bool:
    """Not if it only looks at memory that it was given."""
    if func._schema.is_mutable:
        return True
    given = {place for each in args for place in places(each)}
    return any(place not in given for place in places(result))


def places(value: object) -> Iterator[int]:
    if isinstance(value, torch.Tensor):
        yield value.untyped_storage().data_ptr()
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from places(each)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    counter, run = Counter(), GridExecutor.__call__
    monkeypatch.setattr(dispatch, "takes_kernels", lambda _: True)
    monkeypatch.setattr(
        GridExecutor, "__call__", lambda self, *args, **kw: counter.kernel(run, self, *args, **kw)
    )
    return counter


def step(
    folder: Path,
    num_drafts: int,
    counter: Counter,
    group: Group = ALONE,
    draft_vocabulary: int = 0,
) -> None:
    """A captured step of one sequence that is greedy or has a small top-k."""
    rank = group.rank
    engine = EngineConfig(
        dtype="float16",
        page_tokens=16,
        tensor_parallel=rank.count,
        expert_parallel=rank.expert_groups,
        draft_vocabulary=draft_vocabulary,
    )
    runner = ModelRunner.load(
        ServedModel.of(folder, engine), num_pages=4, num_slots=8, with_scratch=True, group=group
    )
    assert runner.scratch is not None
    tables = StepTables(
        num_rows=2,
        max_slots=4,
        max_context=64,
        page_tokens=16,
        scratch=runner.scratch,
        device="cpu",
    )
    sampling = DeviceSampling(num_rows=2, vocab_size=300, device="cpu", max_drafts=num_drafts)
    start = RowStart(
        last_token=20,
        position=20,
        num_left=20,
        page_ids=[1, 2],
        slots=[1, 2, 3, 4],
        state=1,
        checkpoint=None,
        end_ids=(),
    )
    tables.start(0, start)
    sampling.start(0, Sampling(), prompt_ids=(5,), answer_ids=(20,))
    shape = StepShape(1, num_drafts, 2, with_logprobs=False, needs=FEW)
    device_step = runner.device_step(tables, sampling)
    rows = to_device([0], torch.device("cpu"))
    with counter:
        device_step.run(rows, shape)


@pytest.fixture
def of_kind(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> Callable[[str], Path]:
    def make(kind: str, **changes: object) -> Path:
        variant = Variant(is_moe=kind != "dense", changes={**SIZES, **changes})
        plain = add_mtp_layer(make_checkpoint(variant), tmp_path / "plain")
        if kind not in LAYOUTS:
            return plain
        quantize(plain, tmp_path / kind, kind)
        return tmp_path / kind

    return make


def assert_equal(seen: Launches, expected: Launches) -> None:
    """The products of few rows are kernels of ours."""
    assert seen.operations == expected.operations
    assert seen.kernels + seen.products == expected.kernels + expected.products


@pytest.mark.parametrize(
    ("kind", "num_drafts"),
    [
        ("moe", 1),
        ("dense", 0),
        pytest.param("dense", 2, marks=pytest.mark.slow),
        *(pytest.param(layout, 1, marks=pytest.mark.slow) for layout in LAYOUTS),
    ],
)
def test_a_decode_step_has_the_launches_of_the_budget(
    kind: str, num_drafts: int, of_kind: Callable[..., Path], counter: Counter
) -> None:
    folder = of_kind(kind)
    config = ModelConfig.from_folder(folder)
    weights = rank_weights(config, FIRST_OF_ONE, dtype="float16", mtp=True)

    step(folder, num_drafts, counter)

    assert_equal(counter.seen, decode_launches(weights, batch=1, num_drafts=num_drafts))


def test_a_draft_of_few_tokens_has_the_launches_of_the_budget(
    of_kind: Callable[..., Path], counter: Counter
) -> None:
    folder = of_kind("dense")
    config = replace(ModelConfig.from_folder(folder), draft_tokens=(range(200),))
    weights = rank_weights(config, FIRST_OF_ONE, dtype="float16", mtp=True)

    step(folder, 2, counter, draft_vocabulary=200)

    assert_equal(counter.seen, decode_launches(weights, batch=1, num_drafts=2))


class Echo:
    """A backend all of whose ranks have the same."""

    def _allgather_base(self, parts: torch.Tensor, own: torch.Tensor) -> Echo:
        parts.view(-1, own.numel()).copy_(own.expand(parts.numel() // own.numel(), -1))
        return self

    def alltoall_base(self, parts: torch.Tensor, sent: torch.Tensor, *sizes: list[int]) -> Echo:
        width = sent.numel() // 8
        parts.view(-1, width).copy_(sent[:width].expand(8, -1))
        return self

    def wait(self) -> None:
        pass


@pytest.mark.parametrize(
    ("num_ranks", "rows", "is_step"), [(2, 3, False), (8, 512, False), (16, 3, True)]
)
def test_a_sum_over_ranks_has_the_launches_of_the_budget(
    num_ranks: int, rows: int, is_step: bool, counter: Counter
) -> None:
    ranks = Ranks(Rank(index=0, count=num_ranks), Echo())  # type: ignore[arg-type]  # as one
    partial = torch.ones(rows, 1024, dtype=torch.bfloat16)

    with counter:
        total = ranks.sum(partial)

    assert total.unique().tolist() == [num_ranks]
    # The backend's copies are the exchanges.
    assert counter.seen.total == sum_launches(num_ranks, is_step=is_step)


def test_ranks_launch_sums_and_gathers_too(of_kind: Callable[..., Path], counter: Counter) -> None:
    folder = of_kind("moe", linear_num_key_heads=2, linear_num_value_heads=2)
    rank = Rank(count=2, expert_groups=2)
    model = RankModel.of(ModelConfig.from_folder(folder), rank, dtype="float16", page_tokens=16)

    step(folder, 1, counter, Ranks(rank, Echo()))  # type: ignore[arg-type]  # as one

    work = decode_work(model, batch=1, num_drafts=1, context=20)
    assert (work.num_sums, work.num_gathers) == (2 * 2 + 2, 2)
    # The draft's logits are a single row, whose columns lie side by side already. A sum is gathered
    # and added here, since the ranks have no memory in common.
    assert counter.seen.total == num_launches(work, rank.count) - 1 + work.num_sums
