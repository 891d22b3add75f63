"""Properties for any weights: chunking, packing and placing a sequence change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segue.cache.layout import Unit
from segue.engine.batch import PrefillChunk
from segue.engine.runner import ModelRunner
from tests.checkpoints import VOCAB_SIZE
from tests.engine.sequence import RunningSequence
from tests.runners import new_runner

NUM_PAGES, NUM_SLOTS, PAGE_TOKENS = 40, 8, 16
CLOSE = {"rtol": 0.0, "atol": 3e-5}


@pytest.fixture(params=["tiny_dense", "tiny_moe"])
def runner(request: pytest.FixtureRequest) -> ModelRunner:
    """A runner whose whole cache is NaN, so that reading before writing is detected."""
    runner = new_runner(
        request.getfixturevalue(request.param),
        page_tokens=PAGE_TOKENS,
        num_pages=NUM_PAGES,
        num_slots=NUM_SLOTS,
    )
    for _, tensor in runner.tensors.fields():
        tensor.fill_(torch.nan)
    return runner


def prompt_of(num_tokens: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB_SIZE, (num_tokens,), generator=generator).tolist()


def units(runner: ModelRunner, unit: Unit) -> Iterator[Tensor]:
    return (tensor for field, tensor in runner.tensors.fields() if field.unit is unit)


def test_packed_sequences_equal_separate_ones(runner: ModelRunner) -> None:
    prompts = [prompt_of(n, seed=n) for n in (40, 1, 65, 3)]
    alone = [
        RunningSequence(runner, pages=range(30, 40), slot=7).prefill(prompt, len(prompt))
        for prompt in prompts
    ]

    packed = runner.forward(
        [
            RunningSequence(runner, pages=range(7 * i, 7 * i + 7), slot=i).take(prompt)
            for i, prompt in enumerate(prompts)
        ]
    )

    torch.testing.assert_close(packed, torch.cat(alone), **CLOSE)


def test_checkpoints_within_a_chunk_equal_the_states_of_separate_passes(
    runner: ModelRunner,
) -> None:
    """Also the first: it starts from nothing, the second from what the segment before it left."""
    prompt = prompt_of(70)
    apart = RunningSequence(runner, pages=range(5), slot=0)
    kept = {}
    for end in (16, 32, 37, 70):
        start = max(kept, default=0)
        runner.forward([apart.take(prompt[start:end])])
        kept[end] = [state[0].clone() for state in units(runner, Unit.SLOT)]

    chunks = [
        PrefillChunk(
            token_ids=prompt[start:end],
            start=start,
            page_ids=range(10, 15),
            slot_in=slot_in,
            slot_out=slot_out,
            checkpoints=checkpoints,
        )
        for start, end, slot_in, slot_out, checkpoints in [
            (0, 37, None, 3, [(16, 1), (32, 2)]),
            (37, 70, 3, 4, []),
        ]
    ]
    for chunk in chunks:
        runner.forward([chunk])

    for slot, position in enumerate((16, 32, 37, 70), start=1):
        for state, expected in zip(units(runner, Unit.SLOT), kept[position], strict=True):
            torch.testing.assert_close(state[slot], expected, **CLOSE)


def test_a_batch_may_mix_prefill_and_decode_in_any_order(runner: ModelRunner) -> None:
    whole = prompt_of(30)
    expected = RunningSequence(runner, pages=[39, 38], slot=7).prefill_all(whole)
    sequences = [RunningSequence(runner, pages=[2 * i, 2 * i + 1], slot=i) for i in range(4)]
    lengths = [10, 20, 29, 0]
    for sequence, length in zip(sequences[:3], lengths[:3], strict=True):
        runner.forward([sequence.take(whole[:length])])

    takes = [5, 1, 1, 7]
    chunks = [
        sequence.take(whole[length : length + n])
        for sequence, length, n in zip(sequences, lengths, takes, strict=True)
    ]
    logits = runner.forward(chunks)

    last = [length + n - 1 for length, n in zip(lengths, takes, strict=True)]
    torch.testing.assert_close(logits, expected[last], **CLOSE)


@pytest.mark.parametrize("chunk_tokens", [1, 7, 16, 64])
def test_a_chunked_prompt_equals_the_whole_prompt(runner: ModelRunner, chunk_tokens: int) -> None:
    prompt = prompt_of(150)
    whole = RunningSequence(runner, pages=range(20), slot=0).prefill_all(prompt)

    chunked = RunningSequence(runner, pages=range(39, 19, -1), slot=1)
    logits = chunked.prefill(prompt, chunk_tokens)

    torch.testing.assert_close(logits[-1], whole[-1], **CLOSE)
    for tensor in units(runner, Unit.SLOT):
        torch.testing.assert_close(tensor[1], tensor[0], **CLOSE)


def test_a_state_carried_to_another_cache_continues_as_if_it_had_stayed(
    runner: ModelRunner, tiny_dense: Path, tiny_moe: Path
) -> None:
    folder = tiny_moe if runner.config.moe else tiny_dense
    prompt, tail = prompt_of(37), prompt_of(20, seed=1)
    there = new_runner(folder, page_tokens=PAGE_TOKENS, num_pages=9, num_slots=2)
    here = RunningSequence(runner, pages=[5, 9, 2, 4], slot=3)
    here.prefill(prompt, 37)

    moved_pages = {5: 8, 9: 1, 2: 3}
    moves = {Unit.PAGE: moved_pages, Unit.SLOT: {3: 1}}
    for (field, source), (_, target) in zip(
        runner.tensors.fields(), there.tensors.fields(), strict=True
    ):
        for old, new in moves[field.unit].items():
            target[new] = source[old]
    moved = PrefillChunk(token_ids=tail, start=37, page_ids=[8, 1, 3, 0], slot_in=1, slot_out=1)

    assert torch.equal(there.forward([moved]), runner.forward([here.take(tail)]))


@pytest.mark.parametrize("num_tokens", [1, 20])
def test_a_slot_that_is_only_read_is_not_changed(runner: ModelRunner, num_tokens: int) -> None:
    prompt, tail = prompt_of(32), prompt_of(num_tokens, seed=1)
    RunningSequence(runner, pages=[0, 1, 2, 3], slot=2).prefill(prompt, 32)
    before = [tensor[2].clone() for tensor in units(runner, Unit.SLOT)]
    branch = PrefillChunk(token_ids=tail, start=32, page_ids=[0, 1, 2, 3], slot_in=2, slot_out=5)

    first = runner.forward([branch])
    again = runner.forward([branch])

    after = [tensor[2] for tensor in units(runner, Unit.SLOT)]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert torch.equal(first, again)


def test_nothing_but_the_chunks_pages_and_slots_is_written(runner: ModelRunner) -> None:
    chunks = [
        RunningSequence(runner, pages=[4, 11], slot=1).take(prompt_of(20)),
        RunningSequence(runner, pages=[7, 30], slot=6).take(prompt_of(16)),
    ]

    logits = runner.forward(chunks)

    assert logits.isfinite().all()
    for tensor in units(runner, Unit.PAGE):
        is_written = ~tensor.isnan().flatten(1).all(1)
        assert is_written.nonzero().flatten().tolist() == [4, 7, 11]
        assert tensor[11, :, 4:].isnan().all()
    for tensor in units(runner, Unit.SLOT):
        is_written = ~tensor.isnan().flatten(1).all(1)
        assert is_written.nonzero().flatten().tolist() == [1, 6]


def test_each_layer_is_announced_when_its_part_of_the_cache_is_final(runner: ModelRunner) -> None:
    chunk = RunningSequence(runner, pages=[4, 11], slot=1).take(prompt_of(20))
    seen: dict[int, list[Tensor]] = {}

    def keep(layer: int) -> None:
        fields = runner.tensors.fields()
        seen[layer] = [tensor.clone() for field, tensor in fields if field.layer == layer]

    runner.forward([chunk], on_layer=keep)

    assert list(seen) == [0, 1, 2, 3]
    for field, tensor in runner.tensors.fields():
        kept = next(t for t in seen[field.layer] if t.shape == tensor.shape)
        assert torch.equal(kept.nan_to_num(7), tensor.nan_to_num(7))


def test_logits_are_float32_in_any_dtype(tiny_dense: Path) -> None:
    runner = new_runner(tiny_dense, dtype="bfloat16", page_tokens=16, num_pages=4, num_slots=1)

    logits = runner.forward([RunningSequence(runner, pages=[1], slot=0).take([1, 2, 3])])

    assert logits.dtype is torch.float32
    assert logits.shape == (1, VOCAB_SIZE)


def test_weight_bytes_are_those_of_the_file(tiny_dense: Path) -> None:
    runner = new_runner(tiny_dense, page_tokens=16, num_pages=4, num_slots=1)

    header_bytes = 8 + int.from_bytes((tiny_dense / "model.safetensors").read_bytes()[:8], "little")
    file_bytes = (tiny_dense / "model.safetensors").stat().st_size
    assert runner.weight_bytes == file_bytes - header_bytes
