from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segue.kernels.paged_attention import (
    attend_decode,
    attend_prefill,
    attend_verify,
    reference,
)
from segue.kernels.paged_attention.reference import QUERY_BLOCK_TOKENS
from tests.kernels.closeness import assert_close, cumulative, ints, randn

pytestmark = pytest.mark.usefixtures("cpu_operators")

PAGE_TOKENS, HEAD_DIM = 16, 20
HEADS = [(4, 2), (6, 1), (3, 3)]
"""Query heads and key/value heads."""


class PagedSequence:
    """Keys and values of one sequence, in pages that lie in no order, and plain beside them."""

    def __init__(self, num_tokens: int, num_kv_heads: int, pages: list[int], seed: int = 0) -> None:
        self.k, self.v = (randn(num_tokens, num_kv_heads, HEAD_DIM, seed=seed + i) for i in (0, 1))
        self.table = ints(*pages)

    def write(self, pool: Tensor) -> None:
        positions = torch.arange(len(self.k))
        pages, offsets = self.table[positions // PAGE_TOKENS], positions % PAGE_TOKENS
        pool[pages, :, :, offsets] = torch.stack([self.k, self.v], dim=1).to(pool.dtype)

    def attend(self, q: Tensor) -> Tensor:
        """The textbook, in float64: the queries are those of the last positions."""
        repeats = q.shape[1] // self.k.shape[1]
        k, v = (x.double().repeat_interleave(repeats, dim=1) for x in (self.k, self.v))
        scores = torch.einsum("tqx,lqx->qtl", q.double(), k) * HEAD_DIM**-0.5
        hidden = torch.ones(scores.shape[1:]).triu(len(k) - len(q) + 1).bool()
        return torch.einsum("qtl,lqx->tqx", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)


def new_pool(num_kv_heads: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Everything that no sequence writes is poison, the ends of last pages included."""
    return torch.full((80, 2, num_kv_heads, PAGE_TOKENS, HEAD_DIM), torch.nan, dtype=dtype)


def run_prefill(q: Tensor, pool: Tensor, start: int, table: Tensor) -> Tensor:
    return attend_prefill(
        q, pool, cu_tokens_N1=ints(0, len(q)), starts_N=ints(start), page_table_NP=table[None]
    )


@pytest.fixture(autouse=True, params=["all heads at once", "a head at a time"])
def _heads_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "a head at a time":
        monkeypatch.setattr(reference, "GATHERED_BYTES", 1)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize(("start", "num_tokens"), [(0, 1), (0, 65), (15, 1), (16, 33), (40, 100)])
def test_a_prompt_sees_its_prefix_and_its_past(
    start: int, num_tokens: int, heads: tuple[int, int]
) -> None:
    sequence = PagedSequence(start + num_tokens, heads[1], [7, 3, 70, 0, 12, 11, 5, 40, 2])
    pool, q = new_pool(heads[1]), randn(num_tokens, heads[0], HEAD_DIM, seed=5)
    sequence.write(pool)

    out = run_prefill(q, pool, start, sequence.table)

    assert_close(out, sequence.attend(q))


def test_a_prompt_longer_than_a_block_of_queries_is_one_prompt() -> None:
    num_tokens = QUERY_BLOCK_TOKENS + 70
    sequence = PagedSequence(num_tokens + 50, 2, list(range(79, 10, -1)))
    pool, q = new_pool(2), randn(num_tokens, 4, HEAD_DIM, seed=5)
    sequence.write(pool)

    out = run_prefill(q, pool, 50, sequence.table)

    assert_close(out, sequence.attend(q))


def test_packed_sequences_are_each_sequence_alone() -> None:
    first, second = PagedSequence(20, 2, [4, 9]), PagedSequence(70, 2, [1, 8, 3, 6, 2], seed=3)
    pool, q = new_pool(2), randn(5 + 70, 4, HEAD_DIM, seed=5)
    first.write(pool)
    second.write(pool)

    out = attend_prefill(
        q,
        pool,
        cu_tokens_N1=cumulative([5, 70]),
        starts_N=ints(15, 0),
        page_table_NP=torch.stack([ints(4, 9, 4, 4, 4), second.table]),
    )

    assert_close(out[:5], first.attend(q[:5]))
    assert_close(out[5:], second.attend(q[5:]))


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("lengths", [[1], [16], [17, 1], [3, 33, 16]])
def test_decode_of_mixed_lengths_sees_each_sequences_own_past(
    lengths: list[int], heads: tuple[int, int]
) -> None:
    tables = [[5, 6, 7], [30, 2, 40], [1, 0, 3]]
    sequences = [
        PagedSequence(length, heads[1], table, seed=length)
        for length, table in zip(lengths, tables, strict=False)
    ]
    pool, q = new_pool(heads[1]), randn(len(lengths), heads[0], HEAD_DIM, seed=5)
    for sequence in sequences:
        sequence.write(pool)

    out = attend_decode(
        q,
        pool,
        page_table_DP=torch.stack([sequence.table for sequence in sequences]),
        lengths_D=ints(*lengths),
    )

    expected = [s.attend(q[i : i + 1]) for i, s in enumerate(sequences)]
    assert_close(out, torch.cat(expected))


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("counts", [[2], [1, 1, 1], [3, 3, 3], [8, 2, 1], [5, 5, 1]])
def test_verify_of_mixed_lengths_sees_each_sequences_own_past(
    counts: list[int], heads: tuple[int, int]
) -> None:
    starts, tables = [3, 30, 14], [[5, 6, 7], [30, 2, 40], [1, 0, 3]]
    sequences = [
        PagedSequence(start + count, heads[1], table, seed=start)
        for start, count, table in zip(starts, counts, tables, strict=False)
    ]
    pool = new_pool(heads[1])
    queries = [randn(n, heads[0], HEAD_DIM, seed=n + i) for i, n in enumerate(counts)]
    for sequence in sequences:
        sequence.write(pool)
    # One draft round after another, as in a batch.
    rounds = [(i, j) for j in range(max(counts)) for i, count in enumerate(counts) if j < count]

    out = attend_verify(
        torch.stack([queries[i][j] for i, j in rounds]),
        pool,
        page_table_DP=torch.stack([sequence.table for sequence in sequences]),
        lengths_D=ints(*starts[: len(counts)]) + 1,
        round_sizes=[sum(j < count for count in counts) for j in range(max(counts))],
    )

    expected = [s.attend(q) for s, q in zip(sequences, queries, strict=True)]
    assert_close(out, torch.stack([expected[i][j] for i, j in rounds]))


def test_what_a_row_has_beyond_its_sequence_is_not_looked_up() -> None:
    long, short = PagedSequence(40, 2, [4, 9, 1]), PagedSequence(17, 2, [7, 3], seed=3)
    pool, q = new_pool(2), randn(2, 4, HEAD_DIM, seed=5)
    long.write(pool)
    short.write(pool)
    table, lengths = torch.stack([long.table, ints(7, 3, 1 << 40)]), ints(40, 17)

    decoded = attend_decode(q, pool, page_table_DP=table, lengths_D=lengths)
    verified = attend_verify(q, pool, page_table_DP=table, lengths_D=lengths, round_sizes=[2])

    expected = torch.cat([long.attend(q[:1]), short.attend(q[1:])])
    assert_close(decoded, expected)
    assert_close(verified, expected)


@pytest.mark.parametrize("lengths", [[2], [33, 2, 17]])
def test_decode_may_leave_out_the_first_position(lengths: list[int]) -> None:
    sequences = [
        PagedSequence(length, 2, [3 * i, 3 * i + 1, 3 * i + 2], seed=length)
        for i, length in enumerate(lengths)
    ]
    pool, q = new_pool(2), randn(len(lengths), 4, HEAD_DIM, seed=5)
    for sequence in sequences:
        sequence.write(pool)
        pool[sequence.table[0], ..., 0, :] = torch.nan
        sequence.k, sequence.v = sequence.k[1:], sequence.v[1:]

    out = attend_decode(
        q,
        pool,
        page_table_DP=torch.stack([sequence.table for sequence in sequences]),
        lengths_D=ints(*lengths),
        first_position=1,
    )

    expected = [s.attend(q[i : i + 1]) for i, s in enumerate(sequences)]
    assert_close(out, torch.cat(expected))


def test_bfloat16_pages_are_as_near_as_their_dtype_allows() -> None:
    sequence, pool = PagedSequence(40, 2, [4, 9, 1]), new_pool(2, torch.bfloat16)
    sequence.write(pool)
    q = randn(1, 4, HEAD_DIM, seed=5, dtype=torch.bfloat16)

    out = attend_decode(q, pool, page_table_DP=sequence.table[None], lengths_D=ints(40))

    assert out.dtype is torch.bfloat16
    assert_close(out, sequence.attend(q), torch.bfloat16)
