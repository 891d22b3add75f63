"""C++ against the reference, at the sizes that are served: Qwen3.5-0.8B's, and odd ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from segue.kernels import attention_input, causal_conv, gated_delta_rule, paged_attention, rms_norm
from segue.kernels.gated_delta_rule import native as native_rule
from segue.kernels.native import build, library
from segue.kernels.paged_attention import native as native_attention
from segue.kernels.paged_attention import reference as attention
from segue.kernels.product import choice, product
from segue.kernels.product.choice import ways
from segue.kernels.product.paths import ProductPath, product_by
from tests.kernels.closeness import assert_close, cumulative, ints, randn
from tests.kernels.delta_inputs import inputs_of
from tests.kernels.paged_pool import Pool, sizes_of

pytestmark = pytest.mark.skipif(library.loaded() is None, reason="there is no C++ compiler")

DTYPES = [torch.float32, torch.bfloat16]
PROJECTIONS = [(8224, 1024), (1024, 3584), (5120, 1024), (67, 130), (1, 64)]
"""Outputs and inputs: the model's, and some that fill no vector and no panel."""


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", PROJECTIONS)
@pytest.mark.parametrize("num_rows", [1, 2, 3, 5, 24, 25, 70])
def test_every_way_of_multiplying_is_the_product(
    num_rows: int, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    x, weight = randn(num_rows, shape[1], dtype=dtype), randn(*shape, seed=1, dtype=dtype)
    exact = (x.double() @ weight.double().t()).to(dtype)

    for way in {*ways(dtype, is_few=True), *ways(dtype, is_few=False)}:
        assert_close(product_by(way, x, weight), exact, dtype)


def test_more_inputs_than_a_block_of_a_panel_has() -> None:
    x, weight = randn(30, 5000, dtype=torch.bfloat16), randn(100, 5000, dtype=torch.bfloat16)
    exact = (x.double() @ weight.double().t()).to(torch.bfloat16)

    for way in ways(torch.bfloat16, is_few=False):
        assert_close(product_by(way, x, weight), exact, torch.bfloat16)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_beside_any_others_and_on_any_threads(dtype: torch.dtype) -> None:
    x, weight = randn(24, 1024, dtype=dtype), randn(700, 1024, seed=1, dtype=dtype)
    whole = product_by(ProductPath.STREAMED, x, weight)

    for num_rows in (1, 2, 3, 4, 7, 23):
        assert torch.equal(product_by(ProductPath.STREAMED, x[:num_rows], weight), whole[:num_rows])
    torch.set_num_threads(1)
    assert torch.equal(product_by(ProductPath.STREAMED, x, weight), whole)


def test_what_the_library_cannot_take_goes_to_the_reference() -> None:
    weight, x = randn(8, 7, dtype=torch.bfloat16), randn(40, 7, dtype=torch.bfloat16)

    assert torch.equal(product(x, weight), torch.nn.functional.linear(x, weight))
    assert product(x[:0], weight).shape == (0, 8)
    assert_close(product(randn(3, 16), randn(16, 8).t()), randn(3, 16) @ randn(16, 8))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("num_queries", "start"), [(300, 0), (44, 2300), (1, 700), (513, 129), (128, 0)]
)
def test_a_prompt_attends_as_in_the_reference(
    num_queries: int, start: int, dtype: torch.dtype
) -> None:
    pool = Pool(
        [start + num_queries, 70], page_tokens=64, num_kv_heads=2, dtype=dtype, head_dim=256
    )
    q = randn(num_queries + 70, 8, 256, dtype=dtype)
    lengths, starts = [num_queries, 70], [start, 0]

    ours = pool.attend_prefill(q, lengths, starts, by=native_attention)

    assert_close(ours, pool.attend_prefill(q, lengths, starts, by=attention), dtype)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("counts", [[1, 1, 1], [4, 3, 1]])
def test_a_few_queries_attend_as_in_the_reference(counts: list[int], dtype: torch.dtype) -> None:
    lengths = [2500, 1023, 3]
    stored = [length + count - 1 for length, count in zip(lengths, counts, strict=True)]
    pool = Pool(stored, page_tokens=64, num_kv_heads=2, dtype=dtype, head_dim=256)
    q, sizes = randn(sum(counts), 8, 256, dtype=dtype), sizes_of(counts)

    ours = pool.attend_verify(q, lengths, sizes, by=native_attention)

    assert_close(ours, pool.attend_verify(q, lengths, sizes, by=attention), dtype)
    torch.set_num_threads(1)
    assert torch.equal(ours, pool.attend_verify(q, lengths, sizes, by=native_attention))
    # A sequence's first query is the same alone.
    alone = pool.of(0).attend_decode(q[:1], lengths[:1], by=native_attention)
    assert torch.equal(alone, ours[:1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [(16, 16, 128, 128), (2, 6, 128, 128), (1, 2, 16, 32)])
def test_a_prompt_follows_the_rule_as_in_the_reference(
    heads: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    inputs, states = inputs_of(333, heads, dtype), randn(4, *heads[1:], seed=7)
    where = {
        "cu_tokens_M1": cumulative([130, 64, 1, 138]),
        "slots_out_M": ints(1, 0, 2, 3),
        "cu_segments_N1": ints(0, 3, 4),
        "slots_in_N": ints(0, -1),
    }
    ours, theirs = states.clone(), states.clone()

    out = native_rule.gated_delta_rule_prefill(*inputs, ours, **where)

    expected = gated_delta_rule.reference.gated_delta_rule_prefill(*inputs, theirs, **where)
    # State and corrections are rounded as operands of bfloat16 products.
    assert_close(out, expected, dtype)
    assert_close(ours, theirs, dtype)


def test_rounding_does_not_add_up_over_a_long_prompt() -> None:
    inputs, states = inputs_of(4096, (1, 2, 128, 128), torch.bfloat16), torch.zeros(1, 2, 128, 128)
    # Barely forgetting, so that a state holds hundreds of tokens.
    inputs = (*inputs[:3], inputs[3] * 1e-3, inputs[4])
    where = {
        "cu_tokens_M1": ints(0, 4096),
        "slots_out_M": ints(0),
        "cu_segments_N1": ints(0, 1),
        "slots_in_N": ints(-1),
    }
    ours, theirs = states.clone(), states.clone()

    out = native_rule.gated_delta_rule_prefill(*inputs, ours, **where)

    expected = gated_delta_rule.reference.gated_delta_rule_prefill(*inputs, theirs, **where)
    assert_close(out[-1024:], expected[-1024:], torch.bfloat16)
    assert_close(ours, theirs, torch.bfloat16)


WRONG = ints(4), ints(-2)


@pytest.mark.parametrize("slot", WRONG, ids=str)
def test_a_slot_that_does_not_exist_is_an_error(slot: Tensor) -> None:
    inputs, states = inputs_of(1, (1, 2, 16, 32)), randn(4, 2, 16, 32)
    x, conv = randn(1, 8), randn(4, 8, 3)

    for slots_in, slots_out in ((slot, ints(0)), (ints(0), slot)):
        where = {"slots_in_D": slots_in, "slots_out_T": slots_out, "round_sizes": [1]}
        with pytest.raises(IndexError, match=": a page, offset or slot is out of range"):
            gated_delta_rule.gated_delta_rule_decode(*inputs, states, **where)
        with pytest.raises(IndexError, match=": a page, offset or slot is out of range"):
            causal_conv.causal_conv_decode(x, randn(8, 4), conv, **where)
        where = {
            "cu_tokens_M1": ints(0, 1),
            "slots_out_M": slots_out,
            "cu_segments_N1": ints(0, 1),
            "slots_in_N": slots_in,
        }
        with pytest.raises(IndexError, match=": a page, offset or slot is out of range"):
            gated_delta_rule.gated_delta_rule_prefill(*inputs, states, **where)
        with pytest.raises(IndexError, match=": a page, offset or slot is out of range"):
            causal_conv.causal_conv_prefill(x, randn(8, 4), conv, **where)


@pytest.mark.parametrize(("page", "offset"), [(3, 0), (-1, 0), (0, 16), (0, -1)])
def test_a_page_that_does_not_exist_is_an_error(page: int, offset: int) -> None:
    pages, tables = torch.zeros(3, 2, 1, 16, 16), (randn(1, 1, 8), randn(1, 1, 8))

    with pytest.raises(IndexError, match=": a page, offset or slot is out of range"):
        attention_input.attention_input(
            randn(1, 64),
            randn(16),
            randn(16),
            *tables,
            pages,
            pages_T=ints(page),
            offsets_T=ints(offset),
            eps=1e-6,
        )
    if offset == 0:
        table = {"page_table_DP": ints(page).view(1, 1), "lengths_D": ints(5)}
        with pytest.raises(IndexError, match=": a page, offset or slot is out of range"):
            paged_attention.attend_decode(randn(1, 1, 16), pages, **table)


def test_an_infinite_or_missing_number_stays_one() -> None:
    x = torch.tensor([[1.0, torch.inf, 3.0, 4.0], [torch.nan, 1.0, 1.0, 1.0]] * 3)

    for dtype in DTYPES:
        out = rms_norm.rms_norm(x.to(dtype), torch.zeros(4), eps=1e-6)
        expected = rms_norm.reference.rms_norm(x.to(dtype), torch.zeros(4), eps=1e-6)
        assert torch.equal(out.isnan(), expected.isnan())


def test_the_choice_is_measured_once_and_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured = []
    plain = choice._measure

    def counted(
        dtype: torch.dtype, options: list[ProductPath], *, is_few: bool
    ) -> dict[ProductPath, float]:
        measured.append(dtype)
        return plain(dtype, options, is_few=is_few)

    monkeypatch.setattr(choice, "_measure", counted)
    for _ in range(3):
        choice.way_for.cache_clear()
        assert choice.way_for(torch.bfloat16, is_few=True) in ways(torch.bfloat16, is_few=True)
    choice.way_for.cache_clear()

    assert measured == [torch.bfloat16]
    assert "bfloat16 few rows: " in choice.described()
    assert choice.described().startswith(f"{library.variant()}, ")


def test_noise_does_not_choose(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    for torchs_time, chosen in ((0.95, ProductPath.STREAMED), (0.5, ProductPath.TORCH)):
        monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}/{torchs_time}")
        times = {ProductPath.STREAMED: 1.0, ProductPath.TORCH: torchs_time}
        monkeypatch.setattr(choice, "_measure", lambda *_, is_few, times=times: times)
        choice.way_for.cache_clear()
        assert choice.way_for(torch.float32, is_few=True) is chosen
    choice.way_for.cache_clear()


def test_a_variant_that_cannot_run_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.VARIABLE, "altivec")
    library.variant.cache_clear()
    try:
        with pytest.raises(ValueError, match="got altivec"):
            library.variant()
    finally:
        library.variant.cache_clear()


def test_without_a_compiler_the_error_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    variant = build.own_variants()[0]
    with pytest.raises(build.NoCompiler, match="set CXX"):
        build.find_or_build(variant)
    monkeypatch.setenv("CXX", "/bin/false")
    with pytest.raises(build.NoCompiler, match="failed with 1"):
        build.find_or_build(variant)


TESTED = ("native", "paged_attention", "gates", "quantized_product")


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["avx512", "avx2", "sse2"])
def test_every_variant_passes_these_tests(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if variant not in build.own_variants():
        pytest.skip(f"this processor cannot run {variant}")
    monkeypatch.setenv(library.VARIABLE, variant)
    files = [f"tests/kernels/test_{name}.py" for name in TESTED]

    subprocess.run([sys.executable, "-m", "pytest", "-q", *files], check=True, timeout=900)
