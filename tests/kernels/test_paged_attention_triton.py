from __future__ import annotations

import mmap
from copy import copy

import pytest
import torch

from segue.kernels.attention_input.triton import store_keys_and_values
from segue.kernels.paged_attention import (
    reference,
    triton,
    triton_prompts,
    triton_runs,
)
from tests.kernels.closeness import assert_close, ints, randn
from tests.kernels.device import DEVICE, DTYPES
from tests.kernels.paged_pool import HEAD_DIM, Pool, sizes_of

PAGE_TOKENS = [16, 32, 64, 128]
HEADS = [(4, 2), (3, 1), (2, 2)]
"""Query heads and key/value heads."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", HEADS)
def test_prompts_equal_the_reference(heads: tuple[int, int], dtype: torch.dtype) -> None:
    lengths, starts = [1, 63, 64, 65], [15, 0, 126, 16]
    ends = [start + length for start, length in zip(starts, lengths, strict=True)]
    pool = Pool(ends, num_kv_heads=heads[1], dtype=dtype)
    q = randn(sum(lengths), heads[0], HEAD_DIM, seed=5, dtype=dtype)

    out = pool.attend_prompts(q, lengths, starts)

    assert_close(out, pool.attend_prompts(q, lengths, starts, by=reference), dtype)


@pytest.mark.parametrize("page_tokens", PAGE_TOKENS)
def test_prompts_read_pages_of_any_size(page_tokens: int) -> None:
    pool, q = Pool([170], page_tokens=page_tokens), randn(70, 2, HEAD_DIM, seed=5)

    out = pool.attend_prompts(q, [70], [100])

    assert_close(out, pool.attend_prompts(q, [70], [100], by=reference))


def test_a_batch_may_have_prompts_without_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_prompts, "BLOCK_I", 2)
    lengths, starts = [0, 3, 0, 0, 40], [16, 2, 0, 5, 1]
    pool, q = Pool([16, 5, 1, 5, 41]), randn(43, 2, HEAD_DIM, seed=5)

    out = pool.attend_prompts(q, lengths, starts)

    assert torch.equal(out[:3], pool.of(1).attend_prompts(q[:3], [3], [2]))
    assert torch.equal(out[3:], pool.of(4).attend_prompts(q[3:], [40], [1]))
    assert len(pool.attend_prompts(q[:0], [0], [0])) == 0


@pytest.mark.parametrize("start", [0, 63, 200])
def test_keys_in_pieces_are_keys_in_one(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, q = Pool([start + 20]), randn(20, 2, HEAD_DIM, seed=5)
    monkeypatch.setattr(triton_prompts, "MIN_PIECE_TOKENS", 8)
    monkeypatch.setattr(triton, "NUM_INTERPRETED", 12)

    out = pool.attend_prompts(q, [20], [start])

    assert_close(out, pool.attend_prompts(q, [20], [start], by=reference))


def test_a_packed_prompt_is_the_prompt_alone() -> None:
    pool, q = Pool([90, 70]), randn(75, 2, HEAD_DIM, seed=5)

    packed = pool.attend_prompts(q, [5, 70], [85, 0])
    alone = pool.attend_prompts(q[:5], [5], [85])

    assert torch.equal(packed[:5], alone)


def test_chunks_are_the_whole_prompt() -> None:
    pool, q = Pool([150]), randn(150, 2, HEAD_DIM, seed=5)

    whole = pool.attend_prompts(q, [150], [0])
    chunks = [
        pool.attend_prompts(q[start:end], [end - start], [start])
        for start, end in ((0, 1), (1, 66), (66, 150))
    ]

    assert_close(torch.cat(chunks), whole)


def test_a_prompt_and_steps_and_runs_are_the_whole_prompt() -> None:
    pool, q = Pool([100]), randn(100, 2, HEAD_DIM, seed=5)

    whole = pool.attend_prompts(q, [100], [0])
    step = pool.attend_steps(q[92:93], [93])
    run = pool.attend_runs(q[93:100], [94], [1] * 7)

    assert_close(torch.cat([step, run]), whole[92:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", HEADS)
def test_runs_equal_the_reference(heads: tuple[int, int], dtype: torch.dtype) -> None:
    lengths, runs = [200, 31, 1], [8, 2, 1]
    ends = [length + run - 1 for length, run in zip(lengths, runs, strict=True)]
    pool = Pool(ends, num_kv_heads=heads[1], dtype=dtype)
    q = randn(sum(runs), heads[0], HEAD_DIM, seed=5, dtype=dtype)

    out = pool.attend_runs(q, lengths, sizes_of(runs))

    assert_close(out, pool.attend_runs(q, lengths, sizes_of(runs), by=reference), dtype)


@pytest.mark.parametrize("page_tokens", PAGE_TOKENS)
def test_runs_read_pages_of_any_size(page_tokens: int) -> None:
    pool, q = Pool([301, 64], page_tokens=page_tokens), randn(3, 2, HEAD_DIM, seed=5)

    out = pool.attend_runs(q, [300, 64], [2, 1])

    assert_close(out, pool.attend_runs(q, [300, 64], [2, 1], by=reference))


def test_every_run_finds_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    # Lengths are taken two at a time, and pieces outnumber the runs.
    monkeypatch.setattr(triton_runs, "BLOCK_D", 2)
    monkeypatch.setattr(triton, "NUM_INTERPRETED", 1)
    lengths = [1, 129, 500, 0, 300]
    pool, q = Pool(lengths), randn(5, 1, HEAD_DIM, seed=5)

    out = pool.attend_steps(q, lengths)

    assert_close(out, pool.attend_steps(q, lengths, by=reference))


@pytest.mark.parametrize("lengths", [[1], [33, 2, 140]])
def test_the_first_position_may_be_left_out(lengths: list[int]) -> None:
    pool, q = Pool(lengths), randn(len(lengths), 2, HEAD_DIM, seed=5)
    pool.pages[pool.table[:, 0], ..., 0, :] = torch.nan

    out = pool.attend_steps(q, lengths, 1)

    assert not out.isnan().any()
    assert_close(out, pool.attend_steps(q, lengths, 1, by=reference))


@pytest.mark.parametrize("by", [reference, triton_runs])
@pytest.mark.parametrize("lengths", [[0], [0, 20], [20, 0]])
def test_padding_gives_zeros(lengths: list[int], by: object) -> None:
    runs = [3] * len(lengths)
    pool = Pool([length + 2 if length else 0 for length in lengths])
    q = randn(sum(runs), 2, HEAD_DIM, seed=5)

    steps = pool.attend_steps(q[: len(lengths)], lengths, by=by)
    rounds = pool.attend_runs(q, lengths, sizes_of(runs), by=by).view(3, len(lengths), 2, -1)

    padding = torch.tensor(lengths) == 0
    assert steps[padding].eq(0).all()
    assert rounds[:, padding].eq(0).all()
    assert not rounds[:, ~padding].eq(0).any()


def test_sequences_may_share_pages() -> None:
    pool, q = Pool([100, 40]), randn(2, 2, HEAD_DIM, seed=5)
    pool.table[1, :2] = pool.table[0, :2]

    out = pool.attend_steps(q, [100, 32])

    assert_close(out, pool.attend_steps(q, [100, 32], by=reference))
    assert torch.equal(out[1:], pool.of(1).attend_steps(q[1:], [32]))


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

        prompt = large.attend_prompts(q, [3], [63])
        run = large.attend_runs(q, [64], [1, 1, 1])
        for pool in (large, small):
            store_keys_and_values(kv, norm, *turn, pool.pages, pages_T=pool.table[0], **last)

        assert torch.equal(prompt, small.attend_prompts(q, [3], [63]))
        assert torch.equal(run, small.attend_runs(q, [64], [1, 1, 1]))
        stored = small.pages[small.table[0, 0], ..., 127, :]
        assert torch.equal(large.pages[page, ..., 127, :], stored)
        assert torch.equal(stored[1].flatten(), kv[0, HEAD_DIM:])
        del large, pool, elements


@pytest.mark.gpu
@pytest.mark.parametrize("page_tokens", [16, 64])
def test_heads_as_wide_as_the_served_ones(page_tokens: int) -> None:
    lengths, runs = [3000, 700], [4, 1]
    pool = Pool(
        [3003, 700], page_tokens=page_tokens, dtype=torch.bfloat16, head_dim=256, num_kv_heads=2
    )
    q = randn(705, 16, 256, seed=5, dtype=torch.bfloat16)

    prompts = pool.attend_prompts(q, [5, 700], [2990, 0])
    out = pool.attend_runs(q[:5], lengths, sizes_of(runs))

    assert_close(prompts, pool.attend_prompts(q, [5, 700], [2990, 0], by=reference), torch.bfloat16)
    assert_close(
        out, pool.attend_runs(q[:5], lengths, sizes_of(runs), by=reference), torch.bfloat16
    )


@pytest.mark.gpu
def test_a_captured_graph_follows_the_lengths() -> None:
    pool, q = Pool([300, 100]), randn(6, 2, HEAD_DIM, seed=5).to(DEVICE)
    lengths = ints(1, 1).to(DEVICE)
    graph, arguments = torch.cuda.CUDAGraph(), {"page_table_DP": pool.table, "lengths_D": lengths}
    triton_runs.attend_runs(q, pool.pages, **arguments, round_sizes=[2, 2, 2])
    with torch.cuda.graph(graph):
        out = triton_runs.attend_runs(q, pool.pages, **arguments, round_sizes=[2, 2, 2])

    for now in ([1, 1], [298, 98], [40, 0]):
        lengths.copy_(ints(*now))
        graph.replay()

        assert_close(out, pool.attend_runs(q, now, [2, 2, 2], by=reference))


def test_what_a_kernel_cannot_read_is_refused() -> None:
    pool, q = Pool([20], num_kv_heads=2), randn(1, 4, HEAD_DIM)

    with pytest.raises(ValueError, match="contiguous queries and pages"):
        pool.attend_steps(randn(1, HEAD_DIM, 4).transpose(1, 2), [20])
    with pytest.raises(ValueError, match=r"must agree, got torch.float16 and torch.float32"):
        pool.attend_steps(q.half(), [20])
    with pytest.raises(ValueError, match=r"power of two from 16, .* got 48"):
        Pool([20], head_dim=48).attend_steps(randn(1, 2, 48), [20])
    with pytest.raises(ValueError, match="multiple of key heads, got 3 and 2"):
        pool.attend_steps(q[:, :3].contiguous(), [20])
    with pytest.raises(ValueError, match=r"falling numbers that start with 1 \(runs\) .* \(1, 2\)"):
        pool.attend_runs(q.expand(3, -1, -1).contiguous(), [20], [1, 2])
    with pytest.raises(ValueError, match=r"add up to 3 \(rows\), got \(1, 1\)"):
        pool.attend_runs(q.expand(3, -1, -1).contiguous(), [20], [1, 1])


def test_a_chip_is_busy_and_pieces_are_few() -> None:
    assert triton_prompts.pieces_of_tiles(512, 1 << 20, 132) == 1
    assert triton_prompts.pieces_of_tiles(100, 50_000, 132) == 5
    assert triton_prompts.pieces_of_tiles(2, 1 << 20, 132) == triton_prompts.MAX_PIECES
    assert triton_prompts.pieces_of_tiles(2, 500, 132) == 1


def test_memory_says_how_many_programs_read_at_once() -> None:
    assert [triton_runs.resident_programs(m, 512) for m in (16, 32, 64, 128)] == [3, 2, 1, 1]
    assert triton_runs.pieces_wanted(1, 4, 396) == 99
    assert triton_runs.pieces_wanted(64, 4, 396) == 396
    assert triton_runs.pieces_wanted(1, 8, 3) == 1
