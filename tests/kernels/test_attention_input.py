"""The way into attention: the reference against the textbook, the kernel against the reference."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from segue.kernels.attention_input import reference, triton
from segue.kernels.rotary import rotary_frequencies, rotary_tables
from tests.kernels.closeness import assert_close, ints, randn
from tests.kernels.device import DEVICE, DTYPES

pytestmark = pytest.mark.usefixtures("cpu_operators")

PAGE_TOKENS, NUM_PAGES = 16, 9
OPERATORS = [reference, triton]


@dataclass(frozen=True, slots=True)
class Heads:
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int

    @property
    def num_columns(self) -> int:
        return 2 * (self.num_heads + self.num_kv_heads) * self.head_dim

    def norms(self) -> tuple[Tensor, Tensor]:
        return tuple(randn(self.head_dim, seed=seed).to(DEVICE) for seed in (1, 2))

    def tables(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        frequencies = rotary_frequencies(self.rotary_dim, theta=1e7)
        cos, sin = rotary_tables(positions, frequencies)
        return cos.to(DEVICE), sin.to(DEVICE)

    def new_pages(self, dtype: torch.dtype) -> Tensor:
        shape = (NUM_PAGES, 2, self.num_kv_heads, PAGE_TOKENS, self.head_dim)
        return torch.full(shape, torch.nan, dtype=dtype, device=DEVICE)


SERVED = Heads(8, 2, 256, 64)
ODD = [Heads(6, 3, 36, 12), Heads(5, 5, 20, 20), Heads(1, 1, 10, 2)]
POSITIONS = ints(1_048_575, 0, 3, 50_000, 999_983)
PLACES = {
    "pages_T": ints(4, 4, 0, 8, 7).to(DEVICE),
    "offsets_T": ints(14, 15, 0, 15, 3).to(DEVICE),
}


def textbook(x: Tensor, norm: Tensor, heads: Heads, positions: Tensor) -> Tensor:
    """Normed and rotated [T, N, X] in float64; angles are the float32 ones, as trained."""
    x = x.double()
    x = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * (1 + norm.double())
    half = heads.rotary_dim // 2
    angles = (positions.float()[:, None] * rotary_frequencies(2 * half, theta=1e7)[half:]).double()
    turn = torch.polar(torch.ones_like(angles), angles).to(x.device)[:, None]
    turned = torch.complex(x[..., :half], x[..., half : 2 * half]) * turn
    return torch.cat([turned.real, turned.imag, x[..., 2 * half :]], dim=-1)


@pytest.mark.parametrize("heads", [SERVED, *ODD])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_reference_is_the_textbook_at_positions_up_to_a_million(
    heads: Heads, dtype: torch.dtype
) -> None:
    packed = randn(5, heads.num_columns, dtype=dtype).to(DEVICE)
    pages, (q_norm, k_norm) = heads.new_pages(dtype), heads.norms()

    q, gate = reference.attention_input(
        packed, q_norm, k_norm, *heads.tables(POSITIONS), pages, **PLACES, eps=1e-6
    )

    parts = packed.view(5, -1, heads.head_dim)
    queries, keys = parts[:, : 2 * heads.num_heads], parts[:, 2 * heads.num_heads :]
    keys, values = keys.chunk(2, dim=1)
    assert q.dtype is dtype
    assert_close(q, textbook(queries[:, 0::2], q_norm, heads, POSITIONS), dtype)
    assert torch.equal(gate, queries[:, 1::2])
    stored = pages[PLACES["pages_T"], :, :, PLACES["offsets_T"]]
    assert_close(stored[:, 0], textbook(keys, k_norm, heads, POSITIONS), dtype)
    assert torch.equal(stored[:, 1], values)


@pytest.mark.parametrize("heads", [SERVED, *ODD])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_tokens", [0, 1, 5])
def test_the_kernel_equals_the_reference(num_tokens: int, heads: Heads, dtype: torch.dtype) -> None:
    # Among other columns: tokens need not lie together.
    packed = randn(num_tokens, heads.num_columns + 24, dtype=dtype).to(DEVICE)[:, 8:-16]
    tables = heads.tables(POSITIONS[:num_tokens])
    places = {name: place[:num_tokens] for name, place in PLACES.items()}
    pages, expected_pages = heads.new_pages(dtype), heads.new_pages(dtype)

    q, gate = triton.attention_input(packed, *heads.norms(), *tables, pages, **places, eps=1e-6)

    expected_q, expected_gate = reference.attention_input(
        packed, *heads.norms(), *tables, expected_pages, **places, eps=1e-6
    )
    assert q.dtype is dtype
    assert q.is_contiguous()
    assert torch.equal(gate, expected_gate)
    assert torch.equal(pages[:, 1].isnan(), expected_pages[:, 1].isnan())
    assert torch.equal(pages[:, 0].isnan(), expected_pages[:, 0].isnan())
    if num_tokens:
        assert_close(q, expected_q, dtype)
        assert_close(pages.nan_to_num(), expected_pages.nan_to_num(), dtype)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("heads", [SERVED, ODD[0]])
def test_keys_and_values_alone_are_stored_as_with_queries(operator: object, heads: Heads) -> None:
    packed = randn(5, heads.num_columns).to(DEVICE)
    tables, (q_norm, k_norm) = heads.tables(POSITIONS), heads.norms()
    whole, alone = heads.new_pages(torch.float32), heads.new_pages(torch.float32)
    operator.attention_input(packed, q_norm, k_norm, *tables, whole, **PLACES, eps=1e-6)

    num_columns = 2 * heads.num_kv_heads * heads.head_dim
    operator.store_keys_and_values(
        packed[:, -num_columns:], k_norm, *tables, alone, **PLACES, eps=1e-6
    )

    assert torch.equal(alone.nan_to_num(), whole.nan_to_num())
    assert torch.equal(alone.isnan(), whole.isnan())


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_a_token_is_the_same_in_any_batch(index_dtype: torch.dtype) -> None:
    heads = ODD[0]
    packed, tables = randn(5, heads.num_columns).to(DEVICE), heads.tables(POSITIONS)
    pages, alone = heads.new_pages(torch.float32), heads.new_pages(torch.float32)
    places = {name: place.to(index_dtype) for name, place in PLACES.items()}

    q, _ = triton.attention_input(packed, *heads.norms(), *tables, pages, **places, eps=1e-6)

    for t in range(5):
        row = slice(t, t + 1)
        own = {name: place[row] for name, place in places.items()}
        cos, sin = (table[row] for table in tables)
        q_alone, _ = triton.attention_input(
            packed[row], *heads.norms(), cos, sin, alone, **own, eps=1e-6
        )
        assert torch.equal(q[row], q_alone)
    assert torch.equal(pages.nan_to_num(), alone.nan_to_num())


def test_what_does_not_fit_is_refused() -> None:
    heads = ODD[0]
    pages, (q_norm, k_norm) = heads.new_pages(torch.float32), heads.norms()
    packed, tables = randn(5, heads.num_columns).to(DEVICE), heads.tables(POSITIONS)

    with pytest.raises(ValueError, match=r"queries and their gates before .* got 216 columns"):
        triton.attention_input(packed[:, -216:], q_norm, k_norm, *tables, pages, **PLACES, eps=1e-6)
    with pytest.raises(ValueError, match=r"has nothing before 2 · 3 heads .* got 648 columns"):
        triton.store_keys_and_values(packed, k_norm, *tables, pages, **PLACES, eps=1e-6)
    with pytest.raises(
        ValueError, match=r"of the pages' dtype torch.float32, or .* got torch.float16"
    ):
        triton.attention_input(packed.half(), q_norm, k_norm, *tables, pages, **PLACES, eps=1e-6)
    with pytest.raises(
        ValueError, match=r"tables are float32 of shape \(5, 1, .* got .*\(4, 1, 12"
    ):
        triton.attention_input(
            packed, q_norm, k_norm, *(x[:4] for x in tables), pages, **PLACES, eps=1e-6
        )
    with pytest.raises(ValueError, match=r"norm has shape \(36,\), got \(30,\)"):
        triton.attention_input(packed, q_norm[:30], k_norm, *tables, pages, **PLACES, eps=1e-6)
