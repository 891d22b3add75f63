from __future__ import annotations

import mmap
from copy import copy

import pytest
import torch

from segue.kernels import blocks
from segue.kernels.attention_input.triton import store_keys_and_values
from segue.kernels.paged_attention import (
    reference,
    triton_decode,
    triton_prefill,
)
from segue.kernels.paged_attention.triton_pieces import most_pieces
from tests.kernels.closeness import assert_close, ints, randn
from tests.kernels.device import DEVICE, DTYPES
from tests.kernels.paged_pool import HEAD_DIM, Pool, sizes_of

PAGE_TOKENS = [16, 32, 64, 128]
HEADS = [(4, 2), (3, 1), (2, 2)]
"""Query heads and key/value heads."""
KINDS = [pytest.param(DTYPES[0], marks=pytest.mark.slow), DTYPES[1]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", HEADS)
def test_prefill_equals_the_reference(heads: tuple[int, int], dtype: torch.dtype) -> None:
    lengths, starts = [1, 63, 64, 65], [15, 0, 126, 16]
    ends = [start + length for start, length in zip(starts, lengths, strict=True)]
    pool = Pool(ends, num_kv_heads=heads[1], dtype=dtype)
    q = randn(sum(lengths), heads[0], HEAD_DIM, seed=5, dtype=dtype)

    out = pool.attend_prefill(q, lengths, starts)

    assert_close(out, pool.attend_prefill(q, lengths, starts, by=reference), dtype)


@pytest.mark.parametrize("page_tokens", PAGE_TOKENS)
def test_prefill_reads_pages_of_any_size(page_tokens: int) -> None:
    pool, q = Pool([170], page_tokens=page_tokens), randn(70, 2, HEAD_DIM, seed=5)

    out = pool.attend_prefill(q, [70], [100])

    assert_close(out, pool.attend_prefill(q, [70], [100], by=reference))


def test_a_batch_may_have_sequences_without_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_prefill, "BLOCK_I", 2)
    lengths, starts = [0, 3, 0, 0, 40], [16, 2, 0, 5, 1]
    pool, q = Pool([16, 5, 1, 5, 41]), randn(43, 2, HEAD_DIM, seed=5)

    out = pool.attend_prefill(q, lengths, starts)

    assert torch.equal(out[:3], pool.of(1).attend_prefill(q[:3], [3], [2]))
    assert torch.equal(out[3:], pool.of(4).attend_prefill(q[3:], [40], [1]))
    assert len(pool.attend_prefill(q[:0], [0], [0])) == 0


@pytest.mark.parametrize("start", [0, 63, 200])
def test_keys_in_pieces_are_keys_in_one(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, q = Pool([start + 20]), randn(20, 2, HEAD_DIM, seed=5)
    monkeypatch.setattr(triton_prefill, "MIN_PIECE_TOKENS", 8)
    monkeypatch.setattr(blocks, "NUM_INTERPRETED", 12)

    out = pool.attend_prefill(q, [20], [start])

    assert_close(out, pool.attend_prefill(q, [20], [start], by=reference))


def test_a_packed_sequence_is_the_sequence_alone() -> None:
    pool, q = Pool([90, 70]), randn(75, 2, HEAD_DIM, seed=5)

    packed = pool.attend_prefill(q, [5, 70], [85, 0])
    alone = pool.attend_prefill(q[:5], [5], [85])

    assert torch.equal(packed[:5], alone)


def test_chunks_are_the_whole_prompt() -> None:
    pool, q = Pool([150]), randn(150, 2, HEAD_DIM, seed=5)

    whole = pool.attend_prefill(q, [150], [0])
    chunks = [
        pool.attend_prefill(q[start:end], [end - start], [start])
        for start, end in ((0, 1), (1, 66), (66, 150))
    ]

    assert_close(torch.cat(chunks), whole)


def test_prefill_then_decode_then_verify_are_the_whole_prompt() -> None:
    pool, q = Pool([100]), randn(100, 2, HEAD_DIM, seed=5)

    whole = pool.attend_prefill(q, [100], [0])
    decoded = pool.attend_decode(q[92:93], [93])
    verified = pool.attend_verify(q[93:100], [94], [1] * 7)

    assert_close(torch.cat([decoded, verified]), whole[92:])


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("heads", HEADS)
def test_verify_equals_the_reference(heads: tuple[int, int], dtype: torch.dtype) -> None:
    lengths, counts = [200, 31, 1], [8, 2, 1]
    ends = [length + count - 1 for length, count in zip(lengths, counts, strict=True)]
    pool = Pool(ends, num_kv_heads=heads[1], dtype=dtype)
    q = randn(sum(counts), heads[0], HEAD_DIM, seed=5, dtype=dtype)

    out = pool.attend_verify(q, lengths, sizes_of(counts))

    assert_close(out, pool.attend_verify(q, lengths, sizes_of(counts), by=reference), dtype)


@pytest.mark.parametrize("page_tokens", PAGE_TOKENS)
def test_verify_reads_pages_of_any_size(page_tokens: int) -> None:
    pool, q = Pool([301, 64], page_tokens=page_tokens), randn(3, 2, HEAD_DIM, seed=5)

    out = pool.attend_verify(q, [300, 64], [2, 1])

    assert_close(out, pool.attend_verify(q, [300, 64], [2, 1], by=reference))


def test_every_sequence_finds_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    # Lengths are taken two at a time, and a program has several pieces.
    monkeypatch.setattr(triton_decode, "BLOCK_D", 2)
    monkeypatch.setattr(triton_decode, "MOST_PROGRAMS", 1)
    monkeypatch.setattr(blocks, "NUM_INTERPRETED", 3)
    lengths = [1, 129, 500, 0, 300]
    pool, q = Pool(lengths), randn(5, 1, HEAD_DIM, seed=5)

    out = pool.attend_decode(q, lengths)

    assert_close(out, pool.attend_decode(q, lengths, by=reference))


def test_pieces_grow_with_their_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_decode, "PIECE_TILES", 1)
    pool, q = Pool([2200], page_tokens=128), randn(1, 1, HEAD_DIM, seed=5)

    out = pool.attend_decode(q, [2200])

    assert_close(out, pool.attend_decode(q, [2200], by=reference))
    assert [most_pieces(tiles, 1) for tiles in (0, 1, 16, 17, 18, 64, 65, 68, 256, 1024)] == [
        *(0, 1, 16, 17, 17, 40, 41, 41, 88, 184)
    ]
    # A million keys.
    assert most_pieces(1 << 15, 4) == 504


@pytest.mark.parametrize("dtype", KINDS)
def test_a_query_has_the_same_bits_in_any_batch(dtype: torch.dtype) -> None:
    """Alone, beside others in a wider table, and as any of several drafts; with 6 rows of queries
    and with 24, which are two tiles."""
    lengths = [161, 20, 300]
    pool = Pool([length + 7 for length in lengths], dtype=dtype)
    q = randn(24, 3, HEAD_DIM, seed=5, dtype=dtype)

    together = pool.attend_verify(q, lengths, [3] * 8).view(8, 3, 3, HEAD_DIM)

    for token, row in ((0, 2), (5, 0), (6, 2)):
        alone = pool.of(row)
        alone.table = alone.table[:, : -(-(lengths[row] + 7) // 16)]
        expected, query = together[token, row], q.view(8, 3, 3, HEAD_DIM)[token, row]
        length, pair = lengths[row] + token, torch.stack([query, q[0]])
        assert torch.equal(alone.attend_decode(query[None], [length])[0], expected)
        assert torch.equal(alone.attend_verify(pair, [length], [1, 1])[0], expected)


@pytest.mark.parametrize("lengths", [[1], [33, 2, 140]])
def test_the_first_position_may_be_left_out(lengths: list[int]) -> None:
    pool, q = Pool(lengths), randn(len(lengths), 2, HEAD_DIM, seed=5)
    pool.pages[pool.table[:, 0], ..., 0, :] = torch.nan

    out = pool.attend_decode(q, lengths, 1)

    assert not out.isnan().any()
    assert_close(out, pool.attend_decode(q, lengths, 1, by=reference))


@pytest.mark.parametrize("by", [reference, triton_decode])
@pytest.mark.parametrize("lengths", [[0], [0, 20], [20, 0]])
def test_padding_gives_zeros(lengths: list[int], by: object) -> None:
    counts = [3] * len(lengths)
    pool = Pool([length + 2 if length else 0 for length in lengths])
    q = randn(sum(counts), 2, HEAD_DIM, seed=5)

    decoded = pool.attend_decode(q[: len(lengths)], lengths, by=by)
    verified = pool.attend_verify(q, lengths, sizes_of(counts), by=by).view(3, len(lengths), 2, -1)

    padding = torch.tensor(lengths) == 0
    assert decoded[padding].eq(0).all()
    assert verified[:, padding].eq(0).all()
    assert not verified[:, ~padding].eq(0).any()


def test_sequences_may_share_pages() -> None:
    pool, q = Pool([100, 40]), randn(2, 2, HEAD_DIM, seed=5)
    pool.table[1, :2] = pool.table[0, :2]

    out = pool.attend_decode(q, [100, 32])

    assert_close(out, pool.attend_decode(q, [100, 32], by=reference))
    assert torch.equal(out[1:], pool.of(1).attend_decode(q[1:], [32]))


@pytest.mark.skipif(DEVICE == "cuda", reason="so many bytes cost nothing only where untouched")
def test_offsets_are_of_64_bits() -> None:
    page_tokens, num_kv_heads, page = 128, 1, (1 << 31) // (2 * 128 * HEAD_DIM) + 5
    page_elements = 2 * page_tokens * num_kv_heads * HEAD_DIM
    small = Pool([66], page_tokens=page_tokens, dtype=torch.float16)
    with mmap.mmap(-1, 2 * (page + 1) * page_elements, flags=mmap.MAP_PRIVATE) as memory:
        large = copy(small)
        elements = torch.frombuffer(memory, dtype=torch.float16)
        large.pages = elements.view(page + 1, 2, num_kv_heads, page_tokens, HEAD_DIM)
        large.table = ints(page)[None]
        large.pages[page] = small.pages[small.table[0, 0]]
        q = randn(3, 2, HEAD_DIM, seed=5, dtype=torch.float16)
        kv, norm = randn(1, 2 * HEAD_DIM, dtype=torch.float16), torch.zeros(HEAD_DIM)
        turn = torch.ones(1, 1, 4), torch.zeros(1, 1, 4)
        last = {"offsets_T": ints(127), "eps": 1e-6}

        prefilled = large.attend_prefill(q, [3], [63])
        verified = large.attend_verify(q, [64], [1, 1, 1])
        for pool in (large, small):
            store_keys_and_values(kv, norm, *turn, pool.pages, pages_T=pool.table[0], **last)

        assert torch.equal(prefilled, small.attend_prefill(q, [3], [63]))
        assert torch.equal(verified, small.attend_verify(q, [64], [1, 1, 1]))
        stored = small.pages[small.table[0, 0], ..., 127, :]
        assert torch.equal(large.pages[page, ..., 127, :], stored)
        assert torch.equal(stored[1].flatten(), kv[0, HEAD_DIM:])
        del large, pool, elements


@pytest.mark.gpu
@pytest.mark.parametrize("page_tokens", [16, 64])
def test_heads_as_wide_as_the_served_ones(page_tokens: int) -> None:
    lengths, counts = [3000, 700], [4, 1]
    pool = Pool(
        [3003, 700], page_tokens=page_tokens, dtype=torch.bfloat16, head_dim=256, num_kv_heads=2
    )
    q = randn(705, 16, 256, seed=5, dtype=torch.bfloat16)

    prefilled = pool.attend_prefill(q, [5, 700], [2990, 0])
    out = pool.attend_verify(q[:5], lengths, sizes_of(counts))

    assert_close(
        prefilled, pool.attend_prefill(q, [5, 700], [2990, 0], by=reference), torch.bfloat16
    )
    assert_close(
        out, pool.attend_verify(q[:5], lengths, sizes_of(counts), by=reference), torch.bfloat16
    )


@pytest.mark.gpu
def test_a_captured_graph_follows_the_lengths() -> None:
    pool, q = Pool([300, 100]), randn(6, 2, HEAD_DIM, seed=5).to(DEVICE)
    lengths = ints(1, 1).to(DEVICE)
    graph, arguments = torch.cuda.CUDAGraph(), {"page_table_DP": pool.table, "lengths_D": lengths}
    triton_decode.attend_verify(q, pool.pages, **arguments, round_sizes=[2, 2, 2])
    with torch.cuda.graph(graph):
        out = triton_decode.attend_verify(q, pool.pages, **arguments, round_sizes=[2, 2, 2])

    for now in ([1, 1], [298, 98], [40, 0]):
        lengths.copy_(ints(*now))
        graph.replay()

        assert_close(out, pool.attend_verify(q, now, [2, 2, 2], by=reference))


def test_what_a_kernel_cannot_read_is_refused() -> None:
    pool, q = Pool([20], num_kv_heads=2), randn(1, 4, HEAD_DIM)

    with pytest.raises(ValueError, match="contiguous queries and pages"):
        pool.attend_decode(randn(1, HEAD_DIM, 4).transpose(1, 2), [20])
    with pytest.raises(ValueError, match=r"must agree, got torch.float16 and torch.float32"):
        pool.attend_decode(q.half(), [20])
    with pytest.raises(ValueError, match=r"power of two from 16, .* got 48"):
        Pool([20], head_dim=48).attend_decode(randn(1, 2, 48), [20])
    with pytest.raises(ValueError, match="multiple of key heads, got 3 and 2"):
        pool.attend_decode(q[:, :3].contiguous(), [20])
    with pytest.raises(
        ValueError, match=r"falling numbers that start with 1 \(sequences\) .* \(1, 2\)"
    ):
        pool.attend_verify(q.expand(3, -1, -1).contiguous(), [20], [1, 2])
    with pytest.raises(ValueError, match=r"add up to 3 \(rows\), got \(1, 1\)"):
        pool.attend_verify(q.expand(3, -1, -1).contiguous(), [20], [1, 1])


def test_a_chip_is_busy_and_pieces_are_few() -> None:
    assert triton_prefill.pieces_of_tiles(512, 1 << 20, 132) == 1
    assert triton_prefill.pieces_of_tiles(100, 50_000, 132) == 5
    assert triton_prefill.pieces_of_tiles(2, 1 << 20, 132) == triton_prefill.MAX_PIECES
    assert triton_prefill.pieces_of_tiles(2, 500, 132) == 1


def test_a_tile_of_queries_follows_from_the_model() -> None:
    assert [triton_decode.tile_rows(group) for group in (1, 3, 4, 8, 16)] == [16, 16, 16, 32, 32]
