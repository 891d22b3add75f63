"""Properties for any weights: verify equals decode, drafts change no answer, nothing is copied."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segue.api.types import Sampling
from segue.cache.layout import Unit
from segue.engine.batch import DecodeChunk, PrefillChunk
from segue.engine.config import EngineConfig
from segue.engine.runner import ModelRunner
from segue.worker.load import load_runner
from tests.checkpoints import VOCAB_SIZE
from tests.engine.drafting import DraftingSequence, draft, verify
from tests.runners import new_runner

PAGE_TOKENS = 16
CLOSE = {"rtol": 0.0, "atol": 3e-5}


@pytest.fixture(params=["mtp_dense", "mtp_moe"])
def runner(request: pytest.FixtureRequest) -> ModelRunner:
    runner = new_runner(
        request.getfixturevalue(request.param),
        page_tokens=PAGE_TOKENS,
        num_pages=64,
        num_slots=32,
    )
    for _, tensor in runner.tensors.fields():
        tensor.fill_(torch.nan)
    return runner


def prompt_of(num_tokens: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB_SIZE, (num_tokens,), generator=generator).tolist()


def units(runner: ModelRunner, unit: Unit) -> Iterator[Tensor]:
    return (tensor for field, tensor in runner.tensors.fields() if field.unit is unit)


def prefilled(
    runner: ModelRunner,
    num_tokens: int,
    pages: range,
    slots: range,
    params: Sampling | None = None,
) -> DraftingSequence:
    prompt = prompt_of(num_tokens, seed=num_tokens)
    sequence = DraftingSequence(runner, pages, slots, prompt, params or Sampling())
    sequence.prefill()
    return sequence


def test_verify_leaves_the_states_and_logits_of_decode(runner: ModelRunner) -> None:
    drafts = prompt_of(4, seed=9)
    apart = prefilled(runner, 30, range(4), range(8, 10))
    expected, states = [], []
    slot = 8
    for j, token_id in enumerate([apart.tokens[-1], *drafts]):
        single = DecodeChunk(
            token_ids=[token_id],
            start=30 + j,
            page_ids=range(4),
            slot_in=slot,
            slots_out=[8],
        )
        expected.append(runner.forward([single]))
        states.append([state[8].clone() for state in units(runner, Unit.SLOT)])
    together = prefilled(runner, 30, range(10, 14), range(6))

    chunk = replace(together.decode_chunk(drafts), slots_out=[3, 1, 0, 2, 5])
    logits = runner.forward([chunk])

    torch.testing.assert_close(logits, torch.cat(expected), **CLOSE)
    for slot, kept in zip(chunk.slots_out, states, strict=True):
        for state, one in zip(units(runner, Unit.SLOT), kept, strict=True):
            torch.testing.assert_close(state[slot], one, **CLOSE)
    for tensor in units(runner, Unit.PAGE):
        torch.testing.assert_close(
            tensor[10:14, :, :3], tensor[0:4, :, :3], **CLOSE, equal_nan=True
        )


def test_verify_prefill_and_decode_in_one_batch_equal_separate_passes(runner: ModelRunner) -> None:
    drafts = {0: prompt_of(3, seed=1), 1: [], 2: prompt_of(5, seed=2)}

    def build(offset: int) -> list[DecodeChunk | PrefillChunk]:
        parts = [
            prefilled(runner, n, range(p, p + 3), range(s, s + 6)).decode_chunk(drafts[i])
            for i, (n, p, s) in enumerate(
                [(20, offset, 0), (33, offset + 3, 6), (7, offset + 6, 12)]
            )
        ]
        prompt = PrefillChunk(
            token_ids=prompt_of(18, seed=5),
            start=0,
            page_ids=range(offset + 9, offset + 12),
            slot_in=None,
            slot_out=20,
        )
        return [parts[0], prompt, parts[1], parts[2]]

    alone = torch.cat([runner.forward([chunk]) for chunk in build(0)])
    together = runner.forward(build(20))

    assert len(together) == 4 + 1 + 1 + 6
    torch.testing.assert_close(together, alone, **CLOSE)


@pytest.mark.parametrize("num_accepted", [0, 2, 3])
def test_verify_writes_a_slot_for_each_token_and_copies_none(
    runner: ModelRunner, num_accepted: int
) -> None:
    """Every slot that no token of the chunk was given keeps its bytes, and so does every page but
    those of the chunk; the state that goes on is where the chunk wrote it."""
    sequence = prefilled(runner, 31, range(4), range(5))
    other = prefilled(runner, 12, range(20, 24), range(10, 15))
    ring = sequence.ring
    outputs = ring.outputs(4)
    before = {unit: [t.clone() for t in units(runner, unit)] for unit in Unit}

    (drafts,) = draft(runner, [sequence], [3])
    runner.forward([sequence.decode_chunk(drafts)])
    written = {unit: [t.clone() for t in units(runner, unit)] for unit in Unit}
    sequence.verified(drafts, [*drafts[:num_accepted], *[-1] * (4 - num_accepted)])

    kept = {Unit.SLOT: outputs, Unit.PAGE: [1, 2]}
    for unit in Unit:
        for then, now in zip(before[unit], written[unit], strict=True):
            is_changed = (then.nan_to_num(7) != now.nan_to_num(7)).flatten(1).any(1)
            assert set(is_changed.nonzero().flatten().tolist()) == set(kept[unit])
        for then, now in zip(written[unit], units(runner, unit), strict=True):
            assert torch.equal(then.nan_to_num(7), now.nan_to_num(7))
    assert sequence.ring.state == outputs[num_accepted]
    assert sequence.ring.checkpoint == outputs[0]
    assert other.ring.state not in outputs


def test_drafting_writes_only_the_mtp_layers_pages(runner: ModelRunner) -> None:
    one = prefilled(runner, 30, range(4), range(5))
    other = prefilled(runner, 20, range(4, 8), range(5, 10))
    before = [t.clone() for _, t in runner.tensors.fields()]

    draft(runner, [one, other], [3, 1])

    for (field, tensor), then in zip(runner.tensors.fields(), before, strict=True):
        same = torch.equal(tensor.nan_to_num(7), then.nan_to_num(7))
        assert same != (field.group == "kv" and field.layer == runner.config.num_layers)
        if not same:
            # Positions 30, 31 and 32 of the first, 20 of the second.
            differs = (tensor.nan_to_num(7) != then.nan_to_num(7)).any(dim=(1, 2, 4))
            assert differs.nonzero().tolist() == [[1, 14], [1, 15], [2, 0], [5, 4]]


def test_no_sequence_drafts_beyond_its_own_pages(runner: ModelRunner) -> None:
    sequence = prefilled(runner, 30, range(2), range(5))
    drafter = runner.drafter([sequence.draft_start()])
    drafter.step([1])
    drafter.step([1])

    with pytest.raises(AssertionError, match="pages must cover"):
        drafter.step([1])


# Three tokens share the answer, so that a draft that is not counted changes the next one.
FEW = {5: 5.0, 6: 5.0, 7: 5.0}
KINDS = {
    "greedy": Sampling(),
    "greedy with penalties": Sampling(
        repetition_penalty=1.4, frequency_penalty=0.2, logit_bias=FEW
    ),
    "sampled": Sampling(temperature=0.9, seed=4, top_k=30),
    "sampled with penalties": Sampling(
        temperature=0.3,
        seed=5,
        repetition_penalty=1.3,
        presence_penalty=0.4,
        frequency_penalty=0.3,
        logit_bias=FEW,
    ),
}


@pytest.mark.parametrize("num_drafts", [1, 3, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_the_same_with_drafts_and_without(
    runner: ModelRunner, kind: str, num_drafts: int
) -> None:
    """A random layer's drafts are never right, so some are replaced by the answer."""
    plain = prefilled(runner, 25, range(8), range(2), KINDS[kind])
    while plain.num_answered < 40:
        verify(runner, [plain], [[]])
    answer = plain.tokens[25:]
    drafting = prefilled(runner, 25, range(10, 18), range(10, 12 + num_drafts), KINDS[kind])

    accepted = set()
    for step in range(100):
        (drafts,) = draft(runner, [drafting], [num_drafts])
        num_right = step % (num_drafts + 1)
        drafts[:num_right] = answer[drafting.num_answered :][:num_right]
        accepted |= set(verify(runner, [drafting], [drafts]))
        if drafting.num_answered > 31:
            break

    assert drafting.tokens == plain.tokens[: len(drafting.tokens)]
    assert min(accepted) < min(num_drafts, 5) <= max(accepted)


def test_the_mtp_layer_is_announced_last_when_its_part_of_the_cache_is_final(
    runner: ModelRunner,
) -> None:
    chunk = PrefillChunk(
        token_ids=prompt_of(20), start=0, page_ids=[4, 11], slot_in=None, slot_out=1
    )
    seen: dict[int, list[Tensor]] = {}

    def keep(layer: int) -> None:
        fields = runner.tensors.fields()
        seen[layer] = [t.clone().nan_to_num(7) for field, t in fields if field.layer == layer]

    runner.forward([chunk], on_layer=keep)

    assert list(seen) == [0, 1, 2, 3, 4]
    hidden, kv = seen[4]
    assert torch.equal(hidden, runner.tensors.of("hidden", 4).nan_to_num(7))
    assert torch.equal(kv, runner.tensors.of("kv", 4).nan_to_num(7))
    assert (hidden[1] != 7).all()


def test_bfloat16_drafts_too(mtp_dense: Path) -> None:
    runner = new_runner(mtp_dense, dtype="bfloat16", page_tokens=16, num_pages=8, num_slots=8)
    sequence = prefilled(runner, 20, range(4), range(5))

    (drafts,) = draft(runner, [sequence], [3])
    verify(runner, [sequence], [drafts])

    assert runner.tensors.of("hidden", 4).dtype is torch.bfloat16
    assert sequence.num_answered >= 2


def test_drafting_may_be_switched_off_and_needs_weights(
    mtp_dense: Path, tiny_dense: Path, tmp_path: Path
) -> None:
    engine = EngineConfig(cache_bytes=1 << 22, max_running=2)
    promised = shutil.copytree(tiny_dense, tmp_path / "promised")
    shutil.copy(mtp_dense / "config.json", promised / "config.json")

    assert load_runner(str(mtp_dense), engine).runner.has_mtp
    without = load_runner(str(mtp_dense), replace(engine, mtp=False)).runner
    assert not without.has_mtp
    assert without.weight_bytes == load_runner(str(tiny_dense), engine).runner.weight_bytes
    assert not load_runner(str(promised), engine).runner.has_mtp
