"""What is compiled ahead of time is what was compared with float64: the heads, widths, tiles and
warps of the published models, with few tokens, so that an interpreter can do it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from benchmarks.gpu.cases import (
    attention,
    decode_step,
    elementwise,
    experts,
    gdn,
    products,
    scaled,
)
from benchmarks.gpu.cases.setup import Setup, Sizes
from benchmarks.gpu.models import Shape
from benchmarks.gpu.operators import Case, checked
from segue.kernels.aot import compile_cases
from segue.kernels.attention_input import triton as attention_input
from segue.kernels.gated_delta_rule import triton_prefill
from segue.kernels.gated_delta_rule.triton_parts import BLOCKS_V, Cut
from segue.kernels.moe import reference
from segue.kernels.moe.tiling import DENSE, STREAMING
from segue.kernels.moe.triton_routing import RoutingPlan, route
from segue.kernels.paged_attention.e4m3 import E4M3
from segue.kernels.product.tiling import NARROW_OUTPUTS
from segue.kernels.rank_sum import reference as rank_sum
from segue.kernels.rank_sum.triton import sum_parts
from segue.model.config import DenseConfig, MoeConfig
from tests.kernels.closeness import assert_close, randn
from tests.kernels.device import DEVICE, DTYPES
from tests.kernels.launches import Launch, record
from tests.kernels.test_e4m3_pages import assert_same_codes
from tests.kernels.test_rank_sum_triton import assert_one_launch_sums, parts_of

DTYPE = DTYPES[1]
EXPERTS = MoeConfig(
    num_experts=8, experts_per_token=8, intermediate_size=256, shared_intermediate_size=256
)
"""All of them for each token, so that few tokens are many rows. Each sum takes several steps."""
WIDTHS = {"0.8B": 1024, "9B": 4096, "35B-A3B": 256, "27B": 5120}
CHUNKS = 33 * 4096
"""A vocabulary with as many chunks of scores, to the next power of two, as the published one."""


def shape_of(name: str, mlp: DenseConfig | MoeConfig) -> Shape:
    heads = {"0.8B": (8, 2, 16), "9B": (16, 4, 32), "35B-A3B": (16, 2, 32), "27B": (16, 4, 32)}
    num_heads, num_kv_heads, num_v_heads = heads[name]
    return Shape(
        name=name,
        hidden_size=WIDTHS[name],
        num_layers=4,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        num_v_heads=num_v_heads,
        mlp=mlp,
        vocab_size=CHUNKS,
    )


DENSE_MLP = DenseConfig(intermediate_size=64)
SMALL, MIDDLE = shape_of("0.8B", DENSE_MLP), shape_of("9B", DENSE_MLP)
SPARSE, WIDE = shape_of("35B-A3B", EXPERTS), shape_of("27B", DENSE_MLP)
FEW_ROWS = replace(
    SPARSE, mlp=DenseConfig(intermediate_size=NARROW_OUTPUTS // 2), vocab_size=NARROW_OUTPUTS
)
"""Gate and up, and the head, are cut into wide tiles, its other matrices into narrow ones."""
MANY_EXPERTS = replace(SPARSE, mlp=replace(EXPERTS, num_experts=144))
"""Tables have the published model's size; its own have 256."""
SIZES = Sizes(
    tokens=(3,),
    attention_decode=((2, 70),),
    attention_rounds=(1, 4),
    attention_prefill=((20, 3),),
    gdn_prefill=(70,),
    gdn_decode=((1, 1), (2, 4), (1, 8)),
    expert_tokens=(3, 40, 50),
    few_rows=(3, 20),
    quantized_rows=(3,),
    scaled_rows=(3,),
    sampled_rows=(1,),
)
LONG = Sizes(
    page_tokens=16,
    attention_decode=((2, 70),),
    attention_rounds=(8,),
    # Few tiles and many keys: the keys are split.
    attention_prefill=((2100, 3),),
)


def setup_of(shape: Shape, sizes: Sizes) -> Setup:
    return Setup(shape, sizes, DEVICE, DTYPE)


def cases() -> Iterator[Callable[[], Case]]:
    """Every operator, with each of the models that makes a difference to it."""
    for shape in (SMALL, MIDDLE):
        yield from gdn.gdn_cases(setup_of(shape, SIZES))
        yield from gdn.gdn_step_cases(setup_of(shape, SIZES))
        yield from elementwise.elementwise_cases(setup_of(shape, SIZES))
    yield from attention.attention_cases(setup_of(MIDDLE, SIZES))
    yield from attention.attention_cases(setup_of(SPARSE, LONG))
    for shape, num_tokens in ((MANY_EXPERTS, 3), (SPARSE, 20)):
        tokens = replace(SIZES, expert_tokens=(num_tokens,))
        yield from experts.mixed_cases(setup_of(shape, tokens))
    yield from experts.expert_cases(setup_of(SPARSE, SIZES))
    yield from experts.quantized_expert_cases(setup_of(SPARSE, SIZES))
    yield from products.quantized_cases(setup_of(SPARSE, SIZES))
    yield from experts.scaled_expert_cases(setup_of(SPARSE, SIZES))
    yield from scaled.scaled_cases(setup_of(SPARSE, SIZES))
    yield from scaled.codes_cases(setup_of(SPARSE, SIZES))
    yield from decode_step.decode_step_cases(setup_of(SMALL, SIZES))
    yield from products.product_cases(setup_of(FEW_ROWS, SIZES))
    yield from elementwise.norm_cases(setup_of(WIDE, SIZES))


def assert_right(case: Case) -> None:
    error, _ = checked(case, 1)
    assert error <= case.limit, f"{case.operator}, {case.size}: relative error {error:.1e}"


@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "cuda", reason="launches are recorded by the interpreter")
def test_all_that_is_compiled_ahead_is_compared_with_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = record(monkeypatch)
    for make in cases():
        assert_right(make())
    for shape, sizes in ((MIDDLE, SIZES), (SPARSE, LONG)):
        codes = replace(sizes, page_dtype=E4M3)
        for make in attention.attention_cases(setup_of(shape, codes)):
            assert_right(make())
    with monkeypatch.context() as cut:
        cut.setattr(triton_prefill, "cut_for", lambda *_, **__: Cut(BLOCKS_V[0], 3))
        few_heads = replace(MIDDLE, num_k_heads=2, num_v_heads=8)
        for make in gdn.gdn_cases(setup_of(few_heads, replace(SIZES, gdn_prefill=(150,)))):
            assert_right(make())
    assert_same_codes(attention_input, DTYPE, heads=16, kv_heads=4, width=256)
    assert_routed(num_tokens=20, rows=STREAMING.rows)
    assert_routed(num_tokens=40, rows=DENSE.rows)
    for num_ranks in (2, 8):
        assert_one_launch_sums(num_ranks, DTYPE)
        parts = parts_of(num_ranks, 2, 1024, dtype=DTYPE)
        assert torch.equal(sum_parts(parts), rank_sum.sum_parts(parts))

    # Sampling has a table of as many chunks as the vocabulary has: too many for an interpreter.
    # test_sampling_triton.py compares it with fewer, test_served_sizes.py on a GPU.
    expected = {case.name: Launch.of_case(case) for case in compile_cases()}
    assert [
        name
        for name, launch in expected.items()
        if launch not in compared and not name.startswith("Sampling")
    ] == []


def assert_routed(num_tokens: int, rows: int) -> None:
    """Of 144 experts, so that tables have the published model's size; its own have 256."""
    logits = randn(num_tokens, 144, dtype=DTYPE).to(DEVICE)
    experts_TA, weights_TA = reference.route(logits, 8)

    weights, plan = route(logits, 8, rows)

    assert_close(weights, weights_TA)
    pairs_Z, tiles = plan.pairs_Z.tolist(), tiles_of(plan)
    assert sorted(pairs_Z) == list(range(num_tokens * 8))
    assert [place for _, place in tiles] == list(range(num_tokens * 8))
    for expert, place in tiles:
        assert experts_TA.flatten()[pairs_Z[place]] == expert


def tiles_of(plan: RoutingPlan) -> list[tuple[int, int]]:
    """Each place in the order of the pairs, with its tile's expert."""
    num_tiles = int(plan.num_tiles)
    columns = (plan.tile_expert, plan.tile_first, plan.tile_stop)
    tiles = zip(*(column[:num_tiles].tolist() for column in columns), strict=True)
    return [(expert, place) for expert, first, stop in tiles for place in range(first, stop)]
