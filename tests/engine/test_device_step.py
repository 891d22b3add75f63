"""A step on the device equals the host's loop: token for token, slot for slot."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segue.api.types import SampledToken, Sampling
from segue.cache.layout import Unit
from segue.engine.device.buckets import StepShape
from segue.engine.device.result import Stepped, unpack, with_logprobs
from segue.engine.runner import ModelRunner
from segue.engine.speculation.acceptance import SlotRing
from segue.model.batch import Batch, DraftBatch
from segue.model.qwen3_5 import Qwen3_5
from tests.checkpoints import VOCAB_SIZE
from tests.engine.stepping import (
    MAX_ROWS,
    PAGE_TOKENS,
    SCRATCH,
    SequenceCase,
    Steps,
    by_hand,
    runner_of,
)
from tests.engine.synchronising import found_in

SAMPLED = Sampling(temperature=0.8)
PENALISED = Sampling(
    temperature=0.7,
    top_k=40,
    top_p=0.9,
    min_p=0.02,
    repetition_penalty=1.2,
    presence_penalty=0.3,
    frequency_penalty=0.2,
    logit_bias={5: 3.0},
)
# Draft layer and trunk are random: only where both are drawn to a few tokens do they agree.
AGREEING = Sampling(temperature=1.0, logit_bias={5: 9.0, 9: 8.5, 11: 8.0})


@pytest.fixture(scope="module")
def runners(mtp_dense: Path) -> tuple[ModelRunner, ModelRunner]:
    return runner_of(mtp_dense), runner_of(mtp_dense)


def poison(runner: ModelRunner) -> None:
    for field, tensor in runner.tensors.fields():
        tensor[SCRATCH.page if field.unit is Unit.PAGE else SCRATCH.slot] = torch.nan


def asked(num: int = 6, seed: int = 1) -> list[SequenceCase]:
    """Prompts that end before, on and behind page boundaries; rings of all sizes; all kinds of
    parameters; starts and ends at different steps."""
    source = random.Random(seed)
    lengths = [1, PAGE_TOKENS - 1, PAGE_TOKENS, PAGE_TOKENS + 1, 40, 3 * PAGE_TOKENS]
    kinds = [Sampling(), AGREEING, SAMPLED, AGREEING, PENALISED]
    return [
        SequenceCase(
            prompt=[source.randrange(VOCAB_SIZE) for _ in range(lengths[i % len(lengths)])],
            max_tokens=[30, 3, 24, 1, 19, 12][i % 6],
            starts_at=[0, 0, 2, 1, 5, 3][i % 6],
            num_slots=[9, 5, 2, 1, 3, 7][i % 6],
            params=replace(kinds[i % 5], seed=(i << 40) + i),
        )
        for i in range(num)
    ]


@pytest.mark.parametrize(
    "num_drafts", [0, 1, 7, *(pytest.param(k, marks=pytest.mark.slow) for k in (2, 3, 4))]
)
def test_tokens_and_rings_are_those_of_the_hosts_loop(
    runners: tuple[ModelRunner, ModelRunner], num_drafts: int
) -> None:
    one, other = runners
    poison(other)
    steps = Steps(other)

    expected = by_hand(one, asked(), num_drafts)
    went = steps.run(asked(), num_drafts)

    assert went.tokens == expected.tokens
    assert went.rings == expected.rings
    for row, rings in enumerate(expected.rings):
        if rings:
            assert steps.ring(row, rings[-1].slots) == replace(rings[-1], checkpoint_tokens=0)
            assert_same_memory(one, other, asked()[row].pages(row), rings[-1])
    if num_drafts:
        assert max(len(rings) for rings in went.rings) < 30, "no draft was accepted"


def assert_same_memory(
    one: ModelRunner, other: ModelRunner, pages: list[int], ring: SlotRing
) -> None:
    """A sequence's pages up to the last token, its state and its checkpoint."""
    kept = [ring.state] if ring.checkpoint is None else [ring.state, ring.checkpoint]
    for field, tensor in one.tensors.fields():
        theirs = other.tensors.of(field.group, field.layer)
        if field.unit is Unit.SLOT:
            torch.testing.assert_close(theirs[kept], tensor[kept], rtol=1e-4, atol=1e-5)
            continue
        for first, page in zip(range(0, ring.num_tokens, PAGE_TOKENS), pages, strict=False):
            num = min(ring.num_tokens - first, PAGE_TOKENS)
            # What lies at position 0 of the MTP layer is never read.
            start = int(first == 0 and field.layer == one.config.num_layers)
            torch.testing.assert_close(
                theirs[page, :, start:num], tensor[page, :, start:num], rtol=1e-4, atol=1e-5
            )


def test_padding_and_wider_tables_change_nothing(
    runners: tuple[ModelRunner, ModelRunner],
) -> None:
    """Scratch units are not numbers, and so is whatever padding rows compute."""
    one, other = runners
    expected = Steps(one).run(asked(), 2)
    poison(other)

    went = Steps(other).run(asked(), 2, num_padding=3, num_pages=12)

    assert went == expected
    for _, tensor in other.tensors.fields():
        assert not tensor[: len(tensor) - 1].isnan().any()


def test_an_answer_ends_with_its_end_token_wherever_in_a_decode_chunk_that_is(
    runners: tuple[ModelRunner, ModelRunner],
) -> None:
    one, other = runners
    turns = [
        SequenceCase(
            prompt=[7, 3, i],
            max_tokens=40,
            params=replace(AGREEING, seed=i),
            end_ids=(11,) if i % 2 else (200, 11, 201),
        )
        for i in range(8)
    ]

    expected = by_hand(one, turns, 4)
    went = Steps(other).run(turns, 4)

    assert went.tokens == expected.tokens
    assert went.rings == expected.rings
    assert sum(answer[-1] == 11 for answer in went.tokens) >= 6


def test_other_rows_are_left_alone(runners: tuple[ModelRunner, ModelRunner]) -> None:
    steps = Steps(runners[0])
    steps.run(asked(3), 1)
    before = steps.tables.integers_RF[:MAX_ROWS].clone()

    steps.run(asked(6)[3:4], 1)

    after = steps.tables.integers_RF[:MAX_ROWS]
    assert torch.equal(before[1:], after[1:])
    assert not torch.equal(before[0], after[0])


@pytest.mark.parametrize("num_drafts", [0, 3])
def test_a_step_waits_for_nothing(
    runners: tuple[ModelRunner, ModelRunner], num_drafts: int
) -> None:
    steps = Steps(runners[0])
    steps.run(asked(2)[:1], num_drafts)
    shape = StepShape(2, num_drafts, 4, with_logprobs=True)
    rows = torch.tensor([0, steps.tables.pad_row])

    assert found_in(lambda: steps.step.run(rows, shape)) == []
    assert found_in(lambda: int(rows[0])) != []


@pytest.mark.parametrize("num_drafts", [0, 2])
def test_inputs_of_kernels_are_contiguous(
    runners: tuple[ModelRunner, ModelRunner], num_drafts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[Batch | DraftBatch] = []
    forward, draft = Qwen3_5.forward, Qwen3_5.draft
    monkeypatch.setattr(
        Qwen3_5, "forward", lambda self, b, *rest: (batches.append(b), forward(self, b, *rest))[1]
    )
    monkeypatch.setattr(
        Qwen3_5, "draft", lambda self, h, b: (batches.append(b), draft(self, h, b))[1]
    )
    steps = Steps(runners[0])

    steps.step.run(torch.tensor([0, 1, steps.tables.pad_row]), StepShape(3, num_drafts, 2))

    inner = [part for b in batches if isinstance(b, Batch) for part in (b.decode, b.hidden)]
    tensors = [
        value
        for part in (*batches, *inner)
        if part is not None
        for field in (getattr(part, each.name) for each in fields(part))
        for value in (field if isinstance(field, tuple) else (field,))
        if isinstance(value, Tensor)
    ]
    assert len(batches) == num_drafts + 1
    assert len(tensors) >= 13
    assert all(tensor.is_contiguous() for tensor in tensors)


def test_log_probabilities_are_those_of_the_sampler(
    runners: tuple[ModelRunner, ModelRunner],
) -> None:
    logits_TV = torch.randn(6, VOCAB_SIZE, generator=torch.Generator().manual_seed(3))
    targets_T = torch.tensor([3, 6, 4, 7, 5, 8])
    shape = StepShape(2, 2, 1, with_logprobs=True)
    result = torch.cat([torch.tensor([2, 3]), torch.tensor([2, 2]), targets_T])

    values = with_logprobs(result, targets_T, logits_TV)

    first, second = unpack(values, shape, [2, None])
    assert [token.token_id for token in first.tokens] == [3, 4]
    assert second == Stepped([SampledToken(token_id=i) for i in (6, 7, 8)], 2)
    for token, logits_V in zip(first.tokens, (logits_TV[0], logits_TV[2]), strict=True):
        logprobs_V = logits_V.log_softmax(0)
        assert token.logprob == float(logprobs_V[token.token_id])
        best = logprobs_V.topk(2)
        assert [t.token_id for t in token.top_logprobs] == best.indices.tolist()
        assert [t.logprob for t in token.top_logprobs] == best.values.tolist()
