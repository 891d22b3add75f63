"""The head of the draft layer: the trunk's head, of the tokens that may be drafted."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from segue.kernels.product import Epilogue
from segue.model.config import ModelConfig
from segue.model.drafts.tokens import share_of
from segue.model.weight import PlainWeight, weight_of
from segue.model.weights.quantized import Matrix
from segue.parallel.group import Group

NEVER = -1e30
"""The logit of a token that is not drafted. It is finite: if a grammar allows only such tokens, the
draft is one of them."""


class DraftHead:
    """D tokens to draft from, H hidden size, S tokens that may be drafted, V vocabulary."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, Tensor], group: Group) -> None:
        self._group = group
        self._vocab_size = config.vocab_size
        self._tokens = config.draft_tokens or (range(config.vocab_size),)
        self._num_tokens = sum(map(len, self._tokens))
        self._parts = _parts(config, weights, group)

    def logits(self, m_DH: Tensor) -> Tensor:
        """Float32 [D, V]."""
        own = [part.matmul(m_DH, Epilogue.FLOAT32) for part in self._parts]
        none_D0 = m_DH.new_empty((len(m_DH), 0), dtype=torch.float32)
        own_DS = own[0] if len(own) == 1 else torch.cat([none_D0, *own], dim=1)
        chosen_DS = self._group.gather(own_DS, self._num_tokens)
        if self._num_tokens == self._vocab_size:
            return chosen_DS
        shape = (len(m_DH), self._vocab_size)
        logits_DV = torch.full(shape, NEVER, dtype=torch.float32, device=m_DH.device)
        first = 0
        for part in self._tokens:
            end = first + len(part)
            logits_DV[:, part.start : part.stop] = chosen_DS[:, first:end]
            first = end
        return logits_DV


def _parts(config: ModelConfig, weights: Mapping[str, Tensor], group: Group) -> list[Matrix]:
    """The rows of this rank's tokens, where they are: nothing is stored twice on one rank."""
    if config.draft_tokens is None:
        return [weight_of(weights, "lm_head")]
    if "draft_head" in weights:
        return [weight_of(weights, "draft_head")]
    # A rank has a part of a tied head, but the whole embedding.
    in_embedding = config.tie_word_embeddings and group.rank.count > 1
    whole: Matrix = PlainWeight(weights["embed"]) if in_embedding else weight_of(weights, "lm_head")
    return [whole.rows(own.start, own.stop) for own in share_of(config.draft_tokens, group.rank)]
