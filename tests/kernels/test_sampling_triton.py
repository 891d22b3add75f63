from __future__ import annotations

import random
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from segue.kernels import sampling
from segue.kernels.sampling import Ledger, SamplingFeatures, SamplingRows, reference, triton
from segue.kernels.sampling.noise import gumbel_of_all
from tests.kernels.device import DEVICE
from tests.kernels.sampling_rows import Wanted, ledger_of, needs_of, rows_of
from tests.kernels.test_sampling import some_logits, some_row


def moved(rows: SamplingRows) -> SamplingRows:
    return SamplingRows(
        **{field.name: getattr(rows, field.name).to(DEVICE) for field in fields(SamplingRows)}
    )


def sampled(
    logits_RV: Tensor, wanted: list[Wanted], needs: SamplingFeatures, chunk: int
) -> list[int]:
    on_cpu = ledger_of(wanted, logits_RV.shape[1])
    assert on_cpu.counts_SV is not None
    assert on_cpu.bias_SV is not None
    assert on_cpu.masks_MW is not None
    ledger = Ledger(
        counts_SV=on_cpu.counts_SV.to(DEVICE),
        bias_SV=on_cpu.bias_SV.to(DEVICE),
        masks_MW=on_cpu.masks_MW.to(DEVICE),
    )
    ids: list[int] = triton.sample(
        logits_RV.to(DEVICE), moved(rows_of(wanted)), needs, ledger, chunk=chunk
    ).tolist()
    return ids


def expected(logits_RV: Tensor, wanted: list[Wanted]) -> list[int]:
    ledger = ledger_of(wanted, logits_RV.shape[1])
    ids: list[int] = reference.sample(logits_RV, rows_of(wanted), needs_of(wanted), ledger).tolist()
    return ids


@pytest.mark.parametrize(
    ("vocab_size", "num_rows", "chunk"), [(1, 3, 16), (7, 10, 16), (300, 4, 128), (5000, 2, 4096)]
)
def test_the_kernels_give_the_tokens_of_the_reference(
    vocab_size: int, num_rows: int, chunk: int
) -> None:
    generator = random.Random(vocab_size)
    logits_RV = torch.cat([some_logits(generator, 1, vocab_size) for _ in range(num_rows)])
    wanted = [some_row(generator, vocab_size) for _ in range(num_rows)]
    before = logits_RV.clone()

    ids = sampled(logits_RV, wanted, sampling.EVERYTHING, chunk)

    assert ids == expected(logits_RV, wanted)
    assert logits_RV.equal(before)


ALONE = {
    "greedy": Wanted(temperature=0.0),
    "temperature": Wanted(temperature=0.8),
    "a tiny temperature": Wanted(temperature=5e-324),
    "top-k": Wanted(temperature=50.0, top_k=3),
    "top-p": Wanted(temperature=50.0, top_p=0.3),
    "min-p": Wanted(temperature=50.0, min_p=0.97),
    "mask": Wanted(temperature=0.0, allowed=(0, 31, 32, 299)),
    "mask and draw": Wanted(temperature=9.0, top_k=5, top_p=0.9, allowed=(3, 64, 255, 256, 290)),
    "bias": Wanted(temperature=0.0, bias=((200, 50.0),)),
    "penalties": Wanted(temperature=0.0, frequency=2.0, answer=(7, 7, 5), pending=(9, 9)),
}


# In numpy, on which kernels are interpreted, a score over a tiny temperature is worth a warning.
@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("one", ALONE.values(), ids=ALONE.keys())
def test_what_nobody_asks_for_is_not_needed(one: Wanted) -> None:
    generator = random.Random(5)
    logits_RV = torch.randn(2, 300, generator=torch.Generator().manual_seed(6)) * 3
    logits_RV[:, [5, 7, 9]] += 12.0
    wanted = [replace(one, seed=generator.randrange(2**63)) for _ in range(2)]

    assert sampled(logits_RV, wanted, needs_of(wanted), 256) == expected(logits_RV, wanted)


def test_of_equals_the_lowest_ids_stay_across_chunks() -> None:
    """Flat but for a few: the cut falls between equals, in each of three chunks."""
    logits_RV = torch.zeros(4, 40)
    logits_RV[:, [3, 21]] = 0.5
    wanted = [Wanted(top_p=top_p, seed=seed) for seed, top_p in enumerate([0.02, 0.2, 0.6, 0.9])]

    assert sampled(logits_RV, wanted, needs_of(wanted), 16) == expected(logits_RV, wanted)


def test_keys_have_the_order_of_scores() -> None:
    """Which top-k shows: the k best of scores of both signs, zeros of both among them."""
    scores = torch.tensor([[-3.0, 0.0, -0.0, 1e-40, 5.0, -1e-40, 7.0, -torch.inf]])
    wanted = [Wanted(temperature=100.0, top_k=top_k, seed=top_k) for top_k in range(1, 8)]
    logits_RV = scores.expand(7, -1).contiguous()

    assert sampled(logits_RV, wanted, needs_of(wanted), 8) == expected(logits_RV, wanted)


def test_noise_is_that_of_the_reference() -> None:
    """Where all scores are equal the noise decides alone; seeds and positions of many bits."""
    generator = random.Random(2)
    wanted = [
        Wanted(seed=generator.randrange(2**63), position=generator.randrange(2**50))
        for _ in range(4)
    ]
    rows = rows_of(wanted)

    ids = sampled(torch.zeros(4, 1000), wanted, needs_of(wanted), 512)

    assert ids == gumbel_of_all(rows.seed_R, rows.position_R, 1000).argmax(dim=1).tolist()


def test_scores_that_are_no_numbers_still_give_a_token() -> None:
    logits_RV = torch.full((1, 20), torch.nan)

    (token,) = sampled(logits_RV, [Wanted(top_k=3, top_p=0.5)], sampling.EVERYTHING, 16)

    assert 0 <= token < 20


def test_an_empty_batch_gives_no_tokens() -> None:
    assert sampled(torch.empty(0, 20), [], sampling.EVERYTHING, 16) == []


def test_logits_that_the_kernels_cannot_read_are_refused() -> None:
    wanted = [Wanted(), Wanted()]

    with pytest.raises(ValueError, match=r"contiguous float32 logits .* got torch.float64"):
        sampled(torch.zeros(2, 8, dtype=torch.float64), wanted, needs_of(wanted), 16)
    with pytest.raises(ValueError, match=r"contiguous seed_R for 3 rows, got shape \(2,\)"):
        sampled(torch.zeros(3, 8), wanted, needs_of(wanted), 16)
    with pytest.raises(ValueError, match=r"contiguous bias_SV of 8 columns .* got None"):
        triton.sample(torch.zeros(2, 8), rows_of(wanted), SamplingFeatures(bias=True), None)


@pytest.mark.gpu
def test_a_captured_graph_samples_what_its_tensors_say_then() -> None:
    generator = random.Random(8)
    first, then = ([some_row(generator, 5000) for _ in range(8)] for _ in range(2))
    ledgers = [ledger_of(wanted, 5000) for wanted in (first, then)]
    all_rows = [moved(rows_of(wanted)) for wanted in (first, then)]
    # Other numbers of pending drafts would need other buffers.
    all_rows = [replace(rows, pending_RP=rows.pending_RP.new_full((8, 4), -1)) for rows in all_rows]
    logits_RV = torch.randn(8, 5000, device=DEVICE)
    rows, counts_SV, bias_SV, masks_MW = (
        all_rows[0],
        ledgers[0].counts_SV.to(DEVICE),
        ledgers[0].bias_SV.to(DEVICE),
        ledgers[0].masks_MW.to(DEVICE),
    )
    ledger = Ledger(counts_SV=counts_SV, bias_SV=bias_SV, masks_MW=masks_MW)
    triton.sample(logits_RV, rows, sampling.EVERYTHING, ledger)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ids_R = triton.sample(logits_RV, rows, sampling.EVERYTHING, ledger)

    for field in fields(SamplingRows):
        getattr(rows, field.name).copy_(getattr(all_rows[1], field.name))
    counts_SV.copy_(ledgers[1].counts_SV)
    bias_SV.copy_(ledgers[1].bias_SV)
    masks_MW.copy_(ledgers[1].masks_MW)
    graph.replay()

    again = SamplingRows(
        **{field.name: getattr(rows, field.name).cpu() for field in fields(SamplingRows)}
    )
    assert (
        ids_R.tolist()
        == reference.sample(logits_RV.cpu(), again, sampling.EVERYTHING, ledgers[1]).tolist()
    )
