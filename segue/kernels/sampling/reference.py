"""Sampling in plain PyTorch, a batch of rows at once.

    logits ─ mask, bias, penalties ┬─ temperature 0 ─────────────────────── argmax ─▶ token
                                   └─ temperature ─ top-k, top-p, min-p ─ + noise ─ argmax ─▶ token

Everything from the temperature on is in float64, so that a sum over 248,000 tokens is the same in
any order. Top-k, top-p and min-p are defined as in `transformers`. There the sort decides between
equal scores; here the lowest ids stay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from segue.kernels.sampling.masks import masked
from segue.kernels.sampling.noise import MAX_NOISE, MIN_NOISE, gumbel, gumbel_of_all
from segue.kernels.sampling.rows import IN_PROMPT, Ledger, SamplingFeatures, SamplingRows

# Letters of shapes: R = rows, V = vocabulary, P = pending tokens, D = rows that draw, C =
# candidates (the tokens of a row that are examined), N = candidates of all rows, J = tokens of a
# decode chunk, K = drafts of a decode chunk, S = slots of a ledger.

_NEVER = MIN_NOISE - MAX_NOISE
"""A token this far below the best one is never drawn, whatever the noise."""

_FEW = 4096
"""Up to this many scores, processing all of them is cheaper than selecting some."""

_MAX_SCORES = 1 << 18
"""Keeps the working set, in float64, in a core's cache."""


def sample(
    logits_RV: Tensor, rows: SamplingRows, needs: SamplingFeatures, ledger: Ledger | None = None
) -> Tensor:
    """The token of each row, int64 [R]; it depends only on the row, not on the rest of the batch.

    `logits_RV` float32, contiguous, not modified. `needs` must cover all features that any row
    uses. Masks, bias and penalties need a `ledger`, which is read-only. Greedy rows take the best
    token, the lowest id among equals; the others take the best after Gumbel noise. On a GPU nothing
    waits, so it can be captured in a graph, which then keeps the pointers of all arguments.
    """
    scores_RV = adjusted(logits_RV, rows, needs, ledger)
    if not needs.draws_any or not len(scores_RV):
        return scores_RV.argmax(dim=1)
    is_drawing_R = rows.temperature_R > 0
    if is_drawing_R.all():
        return _draw(scores_RV, rows, needs)
    ids_R = torch.empty_like(rows.seed_R)
    for which, of in ((~is_drawing_R, _best), (is_drawing_R, _draw)):
        if which.any():
            ids_R[which] = of(scores_RV[which], rows[which], needs)
    return ids_R


def adjusted(
    logits_RV: Tensor, rows: SamplingRows, needs: SamplingFeatures, ledger: Ledger | None = None
) -> Tensor:
    """The logits with masks, bias and penalties; the argument itself is not modified."""
    if needs.masks:
        assert ledger is not None, "masks need a ledger"
        logits_RV = masked(logits_RV, rows.mask_R, ledger)
    if not (needs.bias or needs.penalties):
        return logits_RV
    assert ledger is not None, "bias and penalties need a ledger"
    has_slot_R = rows.slot_R >= 0
    if not has_slot_R.all():
        scores_RV = logits_RV.clone()
        which = has_slot_R.nonzero()[:, 0]
        without = replace(needs, masks=False)
        scores_RV[which] = adjusted(logits_RV[which], rows[which], without, ledger)
        return scores_RV
    if needs.bias:
        assert ledger.bias_SV is not None
        scores_RV = logits_RV + ledger.bias_SV.index_select(0, rows.slot_R)
    else:
        scores_RV = logits_RV.clone()
    if needs.penalties:
        assert ledger.counts_SV is not None
        counts_RV = ledger.counts_SV.index_select(0, rows.slot_R)
        _count(counts_RV, rows.pending_RP)
        _penalise(scores_RV, counts_RV, rows)
    return scores_RV


def _penalise(scores_RV: Tensor, counts_RV: Tensor, rows: SamplingRows) -> None:
    """In place."""
    penalties_3R = torch.stack(
        (rows.repetition_penalty_R, rows.presence_penalty_R, rows.frequency_penalty_R)
    ).float()
    if scores_RV.numel() <= _FEW:
        scores_RV.copy_(_penalised(scores_RV, counts_RV, penalties_3R[:, :, None]))
        return
    # A prompt contains few of the vocabulary's tokens, an answer even fewer.
    index_N, ids_N = counts_RV.nonzero(as_tuple=True)
    scores_RV[index_N, ids_N] = _penalised(
        scores_RV[index_N, ids_N], counts_RV[index_N, ids_N], penalties_3R[:, index_N]
    )


def _penalised(scores: Tensor, counts: Tensor, penalties_3: Tensor) -> Tensor:
    repetition, presence, frequency = penalties_3.unbind()
    divided = torch.where(scores < 0, scores * repetition, scores / repetition)
    scores = torch.where(counts != 0, divided, scores)
    in_answer = (counts & ~IN_PROMPT).float()
    scores = scores - frequency * in_answer
    return scores - presence * (in_answer > 0)


def _count(counts_RV: Tensor, pending_RP: Tensor) -> None:
    if pending_RP.shape[1]:
        is_one_RP = pending_RP >= 0
        counts_RV.scatter_add_(1, pending_RP.clamp(min=0), is_one_RP.to(counts_RV.dtype))


def observe(counts_SV: Tensor, slot_D: Tensor, ids_DJ: Tensor, num_D: Tensor) -> None:
    """Counts the first `num_D` of each sequence's new tokens as part of its answer, in place. All
    int64 except the int32 counts. A sequence with `NO_SLOT` is skipped. Can be captured."""
    num_slots, vocab_size = counts_SV.shape
    places_J = torch.arange(ids_DJ.shape[1], device=ids_DJ.device)
    counts_DJ = (places_J < num_D[:, None]) & (slot_D >= 0)[:, None]
    index_DJ = torch.where(counts_DJ, slot_D[:, None] * vocab_size + ids_DJ, 0)
    flat = counts_SV.view(num_slots * vocab_size)
    flat.scatter_add_(0, index_DJ.flatten(), counts_DJ.to(counts_SV.dtype).flatten())


def num_accepted(draft_ids_DK: Tensor, target_ids_DJ: Tensor, num_drafts_D: Tensor) -> Tensor:
    """Number of each sequence's leading drafts that equal the trunk's own tokens: int64 [D].

    `target_ids_DJ` [D, K + 1] holds at place j the trunk's token after j accepted drafts. Only the
    first `num_drafts_D` of a sequence's K drafts count; the rest may be anything. Can be captured.
    """
    num_drafts = draft_ids_DK.shape[1]
    places_K = torch.arange(num_drafts, device=draft_ids_DK.device)
    right_DK = draft_ids_DK == target_ids_DJ[:, :num_drafts]
    right_DK &= places_K < num_drafts_D[:, None]
    return right_DK.to(torch.int64).cumprod(dim=1).sum(dim=1)


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Tokens of D rows that may be drawn, in order of id. Tokens that may not be drawn, and
    padding, have a score of -inf."""

    scores_DC: Tensor
    ids_DC: Tensor | None
    """None: every token."""
    highest_D1: Tensor
    """The highest score of the row, float64."""
    left_out_D1: Tensor | None = None
    """The mass of all other tokens that top-p counts, where the best token has 1; None for 0."""


def _best(scores_RV: Tensor, _: SamplingRows, __: SamplingFeatures) -> Tensor:
    return scores_RV.argmax(dim=1)


def _draw(scores_DV: Tensor, rows: SamplingRows, needs: SamplingFeatures) -> Tensor:
    """The ids drawn, [D]. Rows share only the calls."""
    if not needs.top_k:
        return _draw_in_blocks(scores_DV, rows, needs)
    is_limited_D = (rows.top_k_R > 0) & (rows.top_k_R < scores_DV.shape[1])
    if is_limited_D.all():
        return _draw_alike(scores_DV, rows, needs, is_limited=True)
    # Rows with few candidates do not wait for those with many.
    limited, others = is_limited_D.nonzero()[:, 0], (~is_limited_D).nonzero()[:, 0]
    ids_D = torch.empty_like(rows.seed_R)
    ids_D[others] = _draw_in_blocks(scores_DV[others], rows[others], needs)
    if len(limited):
        ids_D[limited] = _draw_alike(scores_DV[limited], rows[limited], needs, is_limited=True)
    return ids_D


def _draw_in_blocks(scores_DV: Tensor, rows: SamplingRows, needs: SamplingFeatures) -> Tensor:
    num_rows, vocab_size = scores_DV.shape
    at_once = max(_MAX_SCORES // vocab_size, 1)
    if num_rows <= at_once:
        return _draw_alike(scores_DV, rows, needs, is_limited=False)
    blocks = [slice(start, start + at_once) for start in range(0, num_rows, at_once)]
    return torch.cat(
        [_draw_alike(scores_DV[block], rows[block], needs, is_limited=False) for block in blocks]
    )


def _draw_alike(
    scores_DV: Tensor, rows: SamplingRows, needs: SamplingFeatures, *, is_limited: bool
) -> Tensor:
    scores_DC, ids_DC = filtered(scores_DV, rows, needs, is_limited=is_limited)
    noisy_DC = _with_noise(scores_DC, ids_DC, rows, scores_DV.shape[1])
    chosen_D1 = noisy_DC.argmax(dim=1, keepdim=True)
    return (chosen_D1 if ids_DC is None else ids_DC.gather(1, chosen_D1))[:, 0]


def filtered(
    scores_DV: Tensor, rows: SamplingRows, needs: SamplingFeatures, *, is_limited: bool
) -> tuple[Tensor, Tensor | None]:
    """Scores after temperature, float64 [D, C], -inf for tokens that may not be drawn, and their
    ids; None for all ids in order. Either all rows have a top-k or none has."""
    found = (_limited if is_limited else _unlimited)(scores_DV, rows, needs)
    # The best score becomes 0, so a tiny temperature cannot make two scores infinite.
    scores_DC = _after_temperature(found.scores_DC, found.highest_D1, rows)
    ids_DC = found.ids_DC
    if needs.top_p:
        scores_DC, order_DC = _keep_top_p(found, scores_DC, rows.top_p_R[:, None])
        ids_DC = order_DC if ids_DC is None else ids_DC.gather(1, order_DC)
    if needs.min_p:
        scores_DC.masked_fill_(scores_DC.exp() < rows.min_p_R[:, None], -torch.inf)
    return scores_DC, ids_DC


def _after_temperature(scores_DC: Tensor, highest_D1: Tensor, rows: SamplingRows) -> Tensor:
    return (scores_DC.double() - highest_D1).div_(rows.temperature_R[:, None])


def _limited(scores_DV: Tensor, rows: SamplingRows, _: SamplingFeatures) -> _Candidates:
    """The k best tokens, and all that equal the k-th."""
    vocab_size = scores_DV.shape[1]
    most = int(rows.top_k_R.max())
    # One more, to see whether the last one has an equal that `topk` did not take.
    best_first_DK, ids_DK = scores_DV.topk(most + 1, dim=1)
    lowest_D1 = best_first_DK.gather(1, rows.top_k_R[:, None] - 1)
    highest_D1 = best_first_DK[:, :1].double()
    if vocab_size <= _FEW or bool((best_first_DK[:, most:] >= lowest_D1).any()):
        return _chosen(scores_DV, scores_DV >= lowest_D1, highest_D1)
    best_first_DK, ids_DK = best_first_DK[:, :most], ids_DK[:, :most]
    ids_DC, order_DC = ids_DK.sort(dim=1)
    scores_DC = best_first_DK.masked_fill(best_first_DK < lowest_D1, -torch.inf)
    return _Candidates(scores_DC.gather(1, order_DC), ids_DC, highest_D1)


def _unlimited(scores_DV: Tensor, rows: SamplingRows, needs: SamplingFeatures) -> _Candidates:
    """All tokens that could be drawn; if they are many, without those that filters will remove."""
    highest_D1 = scores_DV.amax(dim=1, keepdim=True).double()
    if scores_DV.numel() <= _FEW:
        return _Candidates(scores_DV, None, highest_D1)
    least_D1 = (rows.min_p_R.log()[:, None] - 1e-6).clamp(min=_NEVER)
    lowest_D1 = (highest_D1 + least_D1 * rows.temperature_R[:, None]).float()
    keep_DV = scores_DV >= lowest_D1
    if not needs.top_p:
        is_most = int(keep_DV.sum()) * 4 > keep_DV.numel()
        if is_most:
            return _Candidates(scores_DV, None, highest_D1)
        return _chosen(scores_DV, keep_DV, highest_D1)
    mass_DV = _after_temperature(scores_DV, highest_D1, rows).exp_()
    # Tokens below this have less than 1 - top_p in total, so top-p removes all of them.
    share_D1 = (1.0 - rows.top_p_R[:, None]) / scores_DV.shape[1]
    keep_DV &= mass_DV >= mass_DV.sum(dim=1, keepdim=True) * share_D1
    left_out_D1 = mass_DV.masked_fill_(keep_DV, 0.0).sum(dim=1, keepdim=True)
    return _chosen(scores_DV, keep_DV, highest_D1, left_out_D1)


def _chosen(
    scores_DV: Tensor, keep_DV: Tensor, highest_D1: Tensor, left_out_D1: Tensor | None = None
) -> _Candidates:
    if scores_DV.numel() <= _FEW:
        scores_DV = scores_DV.masked_fill(~keep_DV, -torch.inf)
        return _Candidates(scores_DV, None, highest_D1, left_out_D1)
    index_N, ids_N = keep_DV.nonzero(as_tuple=True)
    num_D = index_N.bincount(minlength=len(keep_DV))
    starts_D = num_D.cumsum(0) - num_D
    places_N = torch.arange(len(ids_N), device=ids_N.device) - starts_D[index_N]
    # At least one: NaN scores give no candidates.
    shape = (len(num_D), max(int(num_D.max()), 1))
    scores_DC = scores_DV.new_full(shape, -torch.inf)
    ids_DC = ids_N.new_zeros(shape)
    scores_DC[index_N, places_N] = scores_DV[index_N, ids_N]
    ids_DC[index_N, places_N] = ids_N
    return _Candidates(scores_DC, ids_DC, highest_D1, left_out_D1)


def _keep_top_p(found: _Candidates, scores_DC: Tensor, top_p_D1: Tensor) -> tuple[Tensor, Tensor]:
    """Scores, best first, and their places. Keeps only the smallest set of best tokens that has
    `top_p` of the probability; among equals, the lowest ids stay."""
    order_DC = found.scores_DC.sort(dim=1, descending=True, stable=True).indices
    scores_DC = scores_DC.gather(1, order_DC)
    below_DC = scores_DC.exp().flip(1).cumsum(dim=1).flip(1)
    if found.left_out_D1 is not None:
        below_DC += found.left_out_D1
    goes_DC = below_DC <= (1.0 - top_p_D1) * below_DC[:, :1]
    goes_DC[:, 0] = False
    return scores_DC.masked_fill_(goes_DC, -torch.inf), order_DC


def _with_noise(
    scores_DC: Tensor, ids_DC: Tensor | None, rows: SamplingRows, vocab_size: int
) -> Tensor:
    """Adds standard Gumbel noise to the tokens that may be drawn; the largest is then the draw."""
    if ids_DC is None:
        return gumbel_of_all(rows.seed_R, rows.position_R, vocab_size).add_(scores_DC)
    index_N, places_N = (scores_DC > -torch.inf).nonzero(as_tuple=True)
    if len(index_N) * 4 > len(scores_DC) * vocab_size:
        noise_DV = gumbel_of_all(rows.seed_R, rows.position_R, vocab_size)
        return noise_DV.gather(1, ids_DC).add_(scores_DC)
    ids_N = ids_DC[index_N, places_N]
    scores_DC[index_N, places_N] += gumbel(rows.seed_R[index_N], rows.position_R[index_N], ids_N)
    return scores_DC
