"""Pages of e4m3 codes: what is stored, and attention over them, against numbers of full length."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from segue.kernels import paged_attention
from segue.kernels.attention_input import native as native_input
from segue.kernels.attention_input import reference as input_reference
from segue.kernels.attention_input import triton as triton_input
from segue.kernels.native import library
from segue.kernels.paged_attention import native, reference, triton_decode, triton_prefill
from segue.kernels.paged_attention.e4m3 import E4M3, LARGEST, as_bytes, stored
from tests.kernels.closeness import assert_close, cumulative, ints, randn
from tests.kernels.device import DEVICE
from tests.kernels.paged_pool import Pool, sizes_of

SCALES = (0.013, 0.37)
KERNELS = torch.bfloat16 if DEVICE == "cuda" else torch.float16
"""The interpreter has no bfloat16."""
WAYS = [
    ("reference", torch.float32),
    ("reference", torch.bfloat16),
    ("native", torch.float32),
    ("native", torch.bfloat16),
    ("triton", KERNELS),
]
LENGTHS, COUNTS = [100, 33, 1], [4, 3, 1]
STORED = [length + count - 1 for length, count in zip(LENGTHS, COUNTS, strict=True)]
NEW, BEFORE = [40, 33, 1], [60, 0, 0]
"""Of a prompt's tokens, those that attend and those before them."""
needs_native = pytest.mark.skipif(library.loaded() is None, reason="there is no C++ compiler")


def pool_of_codes(lengths: list[int], **shape: int) -> Pool:
    """Whatever no token owns is NaN, which has a code too."""
    pool = Pool(lengths, **shape)
    halves = [stored(pool.pages[:, part], SCALES[part], E4M3) for part in range(2)]
    pool.pages = torch.stack([as_bytes(half) for half in halves], dim=1).view(E4M3)
    return pool


def decoded(pool: Pool) -> Tensor:
    """The pages in float64."""
    scales = torch.tensor(SCALES, dtype=torch.float64, device=pool.pages.device)
    return pool.pages.double() * scales.view(1, 2, 1, 1, 1)


def test_a_number_is_stored_as_the_nearest_code() -> None:
    codes = torch.arange(127, dtype=torch.uint8).view(E4M3).float()
    between = (codes[1:] + codes[:-1]) / 2
    beyond = torch.tensor([0.0, -0.0, 449.0, 1e30, -torch.inf])
    x = torch.cat([codes, -codes, between, between * 1.0001, between * 0.9999, beyond])

    found = stored(x, 1.0, E4M3).float()

    nearest = (x.double()[:, None].abs() - codes.double()).abs().min(dim=1).values
    assert torch.equal(
        (found.double() - x.double().clamp(-LARGEST, LARGEST)).abs()[:-5], nearest[:-5]
    )
    assert found[-5:].tolist() == [0.0, 0.0, LARGEST, LARGEST, -LARGEST]
    even = as_bytes(stored(between, 1.0, E4M3))
    assert not (even % 2).any()
    assert torch.equal(stored(codes * SCALES[0], SCALES[0], E4M3).float(), codes)
    assert stored(torch.tensor(torch.nan), 1.0, E4M3).isnan()


@pytest.mark.parametrize(("way", "dtype"), WAYS[2:])
def test_every_operator_stores_the_same_codes(way: str, dtype: torch.dtype) -> None:
    if way == "native" and library.loaded() is None:
        pytest.skip("there is no C++ compiler")
    assert_same_codes({"native": native_input, "triton": triton_input}[way], dtype)


def assert_same_codes(
    operator: ModuleType,
    dtype: torch.dtype,
    *,
    heads: int = 3,
    kv_heads: int = 2,
    width: int = 32,
) -> None:
    """As the reference's; a quarter of each head is rotated."""
    packed = (30 * randn(20, 2 * (heads + kv_heads) * width)).to(dtype)
    packed[0, -3:] = torch.tensor([torch.inf, -torch.inf, 1e-6])
    tables = [table.contiguous() for table in torch.rand(2, 20, 1, width // 4)]
    args = (packed, randn(width, seed=1), randn(width, seed=2), *tables)
    args = tuple(x.to(DEVICE) for x in args)
    places = {"pages_T": torch.arange(20) // 16, "offsets_T": torch.arange(20) % 16}
    places = {name: place.to(DEVICE) for name, place in places.items()}
    ours, theirs, alone = (
        torch.zeros(3, 2, kv_heads, 16, width, dtype=torch.uint8, device=DEVICE).view(E4M3)
        for _ in range(3)
    )

    q, _ = operator.attention_input(*args, ours, **places, eps=1e-6, scales=SCALES)

    expected, _ = input_reference.attention_input(*args, theirs, **places, eps=1e-6, scales=SCALES)
    assert_close(q, expected, dtype)
    assert torch.equal(as_bytes(ours)[:, 1], as_bytes(theirs)[:, 1])
    # Keys are computed in another order, so one in thousands is on the other side of a boundary.
    differ = as_bytes(ours)[:, 0].int() - as_bytes(theirs)[:, 0].int()
    assert differ.abs().max() <= 1
    assert differ.count_nonzero() <= 20 * kv_heads * width / 400
    columns = 2 * kv_heads * width
    packed_kv = packed[:, -columns:].contiguous().to(DEVICE)
    operator.store_keys_and_values(packed_kv, *args[2:], alone, **places, eps=1e-6, scales=SCALES)
    assert torch.equal(as_bytes(alone), as_bytes(ours))


def attended(pool: Pool, q: Tensor, kind: str, by: ModuleType) -> Tensor:
    """By one operator, of sequences of LENGTHS tokens."""
    table, lengths = {"page_table_DP": pool.table}, {"lengths_D": ints(*LENGTHS).to(DEVICE)}
    match kind:
        case "decode":
            return by.attend_decode(
                q[:3], pool.pages, **table, **lengths, first_position=1, scales=SCALES
            )
        case "verify":
            sizes = sizes_of(COUNTS)
            return by.attend_verify(
                q[:8], pool.pages, **table, **lengths, round_sizes=sizes, scales=SCALES
            )
    return by.attend_prefill(
        q,
        pool.pages,
        cu_tokens_N1=cumulative(NEW).to(DEVICE),
        starts_N=ints(*BEFORE).to(DEVICE),
        page_table_NP=pool.table,
        scales=SCALES,
    )


def expected_of(pool: Pool, q: Tensor, kind: str) -> Tensor:
    """By the reference, in float64 over decoded pages."""
    plain = Pool([1])
    plain.pages, plain.table = decoded(pool), pool.table
    q = q.double()
    match kind:
        case "decode":
            return plain.attend_decode(q[:3], LENGTHS, 1, by=reference)
        case "verify":
            return plain.attend_verify(q[:8], LENGTHS, sizes_of(COUNTS), by=reference)
    return plain.attend_prefill(q, NEW, BEFORE, by=reference)


@pytest.mark.parametrize("kind", ["decode", "verify", "prefill"])
@pytest.mark.parametrize(("way", "dtype"), WAYS)
def test_attention_reads_what_the_codes_stand_for(way: str, dtype: torch.dtype, kind: str) -> None:
    if way == "native" and library.loaded() is None:
        pytest.skip("there is no C++ compiler")
    pool = pool_of_codes(STORED, num_kv_heads=2, head_dim=32)
    q = randn(sum(NEW), 6, 32, seed=5, dtype=dtype).to(DEVICE)
    kernels = triton_prefill if kind == "prefill" else triton_decode
    by = {"reference": reference, "native": native, "triton": kernels}[way]

    out = attended(pool, q, kind, by)

    assert out.dtype is dtype
    assert_close(out, expected_of(pool, q, kind), dtype)


@needs_native
@pytest.mark.parametrize("page_tokens", [16, 64])
def test_at_the_served_head_dimension(page_tokens: int) -> None:
    pool = pool_of_codes(STORED, num_kv_heads=2, page_tokens=page_tokens, head_dim=256)
    q = randn(sum(NEW), 8, 256, seed=5, dtype=torch.bfloat16)

    for kind in ("decode", "verify", "prefill"):
        out = attended(pool, q, kind, native)
        assert_close(out, expected_of(pool, q, kind), torch.bfloat16)


@pytest.mark.parametrize("width", [16, 24])
def test_the_operator_takes_codes_whether_or_not_the_library_does(width: int) -> None:
    """It takes whole vectors only; the rest goes to the reference."""
    pool = pool_of_codes(STORED, head_dim=width)
    q = randn(sum(NEW), 2, width, seed=5).to(DEVICE)
    if DEVICE == "cpu":
        assert_close(attended(pool, q, "prefill", paged_attention), expected_of(pool, q, "prefill"))


def test_pages_of_another_dtype_are_refused() -> None:
    pool = Pool([20], dtype=torch.float16)
    with pytest.raises(ValueError, match=r"queries and pages must agree, got torch.float32"):
        pool.attend_decode(randn(1, 2, 16), [20])
    pages = torch.zeros(3, 2, 1, 16, 16, dtype=torch.float64)
    places = {"pages_T": ints(0), "offsets_T": ints(0)}
    with pytest.raises(ValueError, match=r"or pages of torch\.float8_e4m3fn"):
        triton_input.store_keys_and_values(
            randn(1, 32), randn(16), *torch.rand(2, 1, 1, 8), pages, **places, eps=1e-6
        )
