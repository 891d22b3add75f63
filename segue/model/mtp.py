"""The MTP layer: predicts the next token from a token and the hidden state before it.

    input at position p = fc(norm(embedding of token p), norm(hidden state h of position p - 1))
    m_p = norm(attention block(input))          the head turns it into the draft for p + 1

The head has the rows of the trunk's head for the tokens that may be drafted
(`segue.model.weights.draft_tokens`).

To draft further, m_p replaces h_p, which is not known yet. Keys and values of position p are stored
at p's place in the pages, so a page never depends on later tokens. Position 0 has no hidden state
before it and is never attended to.

There is only one layer, so its keys and values follow from its input without attention. The trunk
stores them for every token, which costs two small products. Attention, MLP and head run only for
tokens to draft from.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.cache.tensors import CacheTensors
from segue.kernels.product import Epilogue
from segue.kernels.rms_norm import join_rms_norms, rms_norm
from segue.model.attention import Attention
from segue.model.batch import Batch, DraftBatch, Rotary
from segue.model.config import ModelConfig
from segue.model.mlp import mlp_of
from segue.model.stream import add_norm
from segue.model.weight import PlainWeight, Weight, weight_of
from segue.model.weights.draft_tokens import share_of
from segue.parallel.group import Group

NEVER = -1e30
"""The logit of a token that may not be drafted. It is finite: if a grammar allows only such tokens,
one of them is drafted."""


class MtpLayer:
    """T tokens of a pass of the trunk, D tokens to draft from, H hidden size, J = 2 H, Y
    vocabulary."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, Tensor], group: Group) -> None:
        at = "mtp.layers.0"
        self.number = config.num_layers
        """Layer number of its fields in the cache: after the trunk's layers."""
        self._eps = config.rms_norm_eps
        self._group = group
        self._embed = weights["embed"]
        self._embedding_norm = weights["mtp.pre_fc_norm_embedding"]
        self._hidden_norm = weights["mtp.pre_fc_norm_hidden"]
        self._fc = weight_of(weights, "mtp.fc")
        self._mixer_norm = weights[f"{at}.mixer_norm"]
        self._attention = Attention(config, weights, at)
        self._mlp_norm = weights[f"{at}.mlp_norm"]
        self._mlp = mlp_of(config, weights, f"{at}.mlp")
        self._norm = weights["mtp.norm"]
        self._head = DraftHead(config, weights, group)

    def store(self, hidden_TH: Tensor, batch: Batch, rotary: Rotary, cache: CacheTensors) -> None:
        """Stores every token's keys and values in its page, and the hidden states that belong to
        the states in slots."""
        rows = batch.hidden
        assert rows is not None, "a batch for a model with an MTP layer needs hidden rows"
        slots_SH = cache.of("hidden", self.number)
        known_XH = torch.cat([hidden_TH, slots_SH.index_select(0, rows.slots_in_I)])
        slots_SH.index_copy_(0, rows.slots_out_K, hidden_TH.index_select(0, rows.rows_K))
        x_TH = self._join(batch.token_ids_T, known_XH.index_select(0, rows.before_T))
        self._attention.store(self._normed(x_TH), batch, rotary, cache.of("kv", self.number))

    def draft(self, hidden_DH: Tensor, batch: DraftBatch) -> tuple[Tensor, Tensor]:
        """Float32 logits [D, Y] for the position after each token, and m [D, H] at the token's,
        which replaces its hidden state. `hidden` is the state before the token. Stores the token's
        keys and values for later drafts; the trunk recomputes them from its own states."""
        x_DH = self._join(batch.token_ids_D, hidden_DH)
        mixed_DH = self._attention.draft(self._normed(x_DH), batch)
        stream = (x_DH, mixed_DH)
        x_DH, normed_DH = add_norm(stream, self._mlp_norm, self._group, eps=self._eps)
        stream = (x_DH, self._mlp(normed_DH))
        m_DH = add_norm(stream, self._norm, self._group, eps=self._eps)[1]
        return self._head.logits(m_DH), m_DH

    def _join(self, token_ids_T: Tensor, before_TH: Tensor) -> Tensor:
        embedding_TH = F.embedding(token_ids_T, self._embed)
        joined_TJ = join_rms_norms(
            embedding_TH, before_TH, self._embedding_norm, self._hidden_norm, eps=self._eps
        )
        return self._fc.matmul(joined_TJ)

    def _normed(self, x_TH: Tensor) -> Tensor:
        return rms_norm(x_TH, self._mixer_norm, eps=self._eps)


class DraftHead:
    """The trunk's head, of the tokens that may be drafted.

    D tokens to draft from, H hidden size, S tokens that may be drafted, V vocabulary.
    """

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


def _parts(config: ModelConfig, weights: Mapping[str, Tensor], group: Group) -> list[Weight]:
    """The rows of this rank's draft tokens, where they are already stored on this rank."""
    if config.draft_tokens is None:
        return [weight_of(weights, "lm_head")]
    if "draft_head" in weights:
        return [weight_of(weights, "draft_head")]
    # A rank has a part of a tied head, but the whole embedding.
    in_embedding = config.tie_word_embeddings and group.rank.count > 1
    whole: Weight = PlainWeight(weights["embed"]) if in_embedding else weight_of(weights, "lm_head")
    return [whole.rows(own.start, own.stop) for own in share_of(config.draft_tokens, group.rank)]
