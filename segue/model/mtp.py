"""The MTP layer: predicts the next token from a token and the hidden state before it.

    input at position p = fc(norm(embedding of token p), norm(hidden state h of position p - 1))
    m_p = norm(attention block(input))          the head turns it into the draft for p + 1

The head is the trunk's, of the tokens that may be drafted (`segue.model.drafts`).

To draft further, m_p replaces h_p, which is not known yet. Keys and values of position p are stored
at p's place in the pages, so a page never depends on later tokens. Position 0 has no hidden state
before it and is never attended to.

Keys and values do not need attention: there is only one layer, and they follow from its input. So
the trunk stores them for every token it computes, which costs two small products; attention, MLP
and head run only for tokens that are drafted from.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.cache.tensors import CacheTensors
from segue.kernels.rms_norm import join_rms_norms, rms_norm
from segue.model.attention import Attention
from segue.model.batch import Batch, DraftBatch, Rotary
from segue.model.config import ModelConfig
from segue.model.drafts.head import DraftHead
from segue.model.mlp import mlp_of
from segue.model.stream import add_norm
from segue.model.weight import weight_of
from segue.parallel.group import Group


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
        """Store what later passes need from the trunk's last hidden states: every token's keys and
        values in its page, and the hidden states that belong to the states kept in slots."""
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
