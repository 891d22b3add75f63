"""What sampling takes beside logits. R rows, V vocabulary, S slots, P pending tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

NO_TOKEN = -1
"""Fills `pending_RP` where a row has fewer."""

IN_PROMPT = 1 << 30
"""Set in a token's count where the prompt has it. The bits below are how often the answer does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingFeatures:
    """What at least one row asks for; the rest is not computed. The host knows it without looking
    at the device, so it may be fixed for a captured graph: rows that ask for less fit in."""

    bias: bool = False
    penalties: bool = False
    draws: bool = False
    """A temperature above 0. The filters are for rows that draw."""
    top_k: bool = False
    top_p: bool = False
    min_p: bool = False

    def __or__(self, other: SamplingFeatures) -> SamplingFeatures:
        return SamplingFeatures(
            bias=self.bias or other.bias,
            penalties=self.penalties or other.penalties,
            draws=self.draws or other.draws,
            top_k=self.top_k or other.top_k,
            top_p=self.top_p or other.top_p,
            min_p=self.min_p or other.min_p,
        )


EVERYTHING = SamplingFeatures(
    bias=True, penalties=True, draws=True, top_k=True, top_p=True, min_p=True
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRows:
    """How each row of logits is sampled; contiguous tensors on their device, which are only read.
    Values are those of `segue.api.types.Sampling`, and are not checked."""

    seed_R: Tensor
    """int64."""
    position_R: Tensor
    """int64: the absolute one that the new token takes in its sequence."""
    top_k_R: Tensor
    """int64; 0 keeps every token."""
    slot_R: Tensor
    """int64: where counts and bias of the row's sequence are; `NO_SLOT` has neither, and then the
    penalties are not looked at."""
    temperature_R: Tensor
    """float64, as all that follow; 0 is greedy."""
    top_p_R: Tensor
    min_p_R: Tensor
    repetition_penalty_R: Tensor
    presence_penalty_R: Tensor
    frequency_penalty_R: Tensor
    pending_RP: Tensor
    """int64: tokens that count as if the answer had them already, such as the drafts before a row
    of a run; `NO_TOKEN` is none."""

    def __getitem__(self, which: Tensor | slice) -> SamplingRows:
        return SamplingRows(
            **{name: getattr(self, name)[which] for name in SamplingRows.__dataclass_fields__}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Counts and bias of the sequences that ask for penalties or a bias, a slot for each."""

    counts_SV: Tensor | None
    """int32: how often the answer has each token, and `IN_PROMPT`. None where nobody needs it."""
    bias_SV: Tensor | None
    """float32, added to the logits. None where nobody needs it."""
