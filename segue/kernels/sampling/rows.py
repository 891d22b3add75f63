"""Sampling's inputs besides logits. R rows, V vocabulary, S slots, P pending tokens, M masks, W
words of a mask, of 32 tokens each."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

NO_TOKEN = -1
"""Pads `pending_RP` in rows with fewer tokens."""

MAX_FEW = 50
"""The largest top-k of a row whose candidates are few. Published models ask for 20; 50 is what
`transformers` takes if nothing is asked."""

IN_PROMPT = 1 << 30
"""Set in a token's count if the prompt contains it. The lower bits are its count in the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingFeatures:
    """The features that at least one row uses; no others are computed. The host knows them without
    the device, so a captured graph can fix them. Rows that use fewer features fit too."""

    bias: bool = False
    penalties: bool = False
    masks: bool = False
    draws: bool = False
    """Some row draws from all tokens: its temperature is above 0, and it has no top-k, or one above
    `MAX_FEW`."""
    draws_few: bool = False
    """Some row draws with a top-k up to `MAX_FEW`. On a GPU, rows without others take two launches.
    The filters apply only to rows that draw."""
    top_k: bool = False
    top_p: bool = False
    min_p: bool = False

    @property
    def draws_any(self) -> bool:
        return self.draws or self.draws_few

    @property
    def adjusts(self) -> bool:
        """Whether scores differ from logits."""
        return self.masks or self.bias or self.penalties

    def __or__(self, other: SamplingFeatures) -> SamplingFeatures:
        return SamplingFeatures(
            bias=self.bias or other.bias,
            penalties=self.penalties or other.penalties,
            masks=self.masks or other.masks,
            draws=self.draws or other.draws,
            draws_few=self.draws_few or other.draws_few,
            top_k=self.top_k or other.top_k,
            top_p=self.top_p or other.top_p,
            min_p=self.min_p or other.min_p,
        )


EVERYTHING = SamplingFeatures(**dict.fromkeys(SamplingFeatures.__dataclass_fields__, True))


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRows:
    """How each row of logits is sampled: contiguous, read-only tensors on the logits' device.
    Values are those of `segue.api.types.Sampling`; they are not checked."""

    seed_R: Tensor
    """int64."""
    position_R: Tensor
    """int64: the absolute position of the new token in its sequence."""
    top_k_R: Tensor
    """int64; 0 keeps every token."""
    slot_R: Tensor
    """int64: slot with the counts and bias of the row's sequence; `NO_SLOT`: it has neither, and
    its penalties are ignored."""
    mask_R: Tensor
    """int64: the row's mask in the ledger; `NO_SLOT`: it may get every token."""
    temperature_R: Tensor
    """float64, like the following ones; 0 is greedy."""
    top_p_R: Tensor
    min_p_R: Tensor
    repetition_penalty_R: Tensor
    presence_penalty_R: Tensor
    frequency_penalty_R: Tensor
    pending_RP: Tensor
    """int64: tokens that count as part of the answer, such as the drafts before a row of a decode
    chunk; `NO_TOKEN` for none."""

    def __getitem__(self, which: Tensor | slice) -> SamplingRows:
        return SamplingRows(
            **{name: getattr(self, name)[which] for name in SamplingRows.__dataclass_fields__}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Counts and bias of the sequences with penalties or a bias, a slot for each, and masks."""

    counts_SV: Tensor | None
    """int32: each token's count in the answer, and `IN_PROMPT`. None if no row needs it."""
    bias_SV: Tensor | None
    """float32, added to the logits. None if no row needs it."""
    masks_MW: Tensor | None = None
    """int32, a bit a token: those that may be sampled. None if no row needs it."""
