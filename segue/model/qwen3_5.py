"""The Qwen3.5 text model: embedding, blocks of mixer and MLP, norm, head; and the MTP layer.

A block's mixer is Gated Delta Net or gated attention; its MLP is dense or a mixture of experts. The
model owns only weights: states and pages belong to the cache, and the batch specifies which to use.

Mixers and MLPs add to the residual stream and read its norm. Between two of them the stream has two
parts, a sum and the latest output. The output is added together with the next norm, by one
operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor

from segue.cache.tensors import CacheTensors
from segue.kernels.product import Epilogue
from segue.kernels.rotary import rotary_frequencies, rotary_tables
from segue.model.attention import Attention
from segue.model.batch import Batch, DraftBatch, Rotary
from segue.model.config import LayerKind, ModelConfig
from segue.model.gated_delta_net import GatedDeltaNet
from segue.model.mlp import mlp_of
from segue.model.mtp import MtpLayer
from segue.model.stream import Stream, add_norm, rows_of
from segue.model.weight import weight_of
from segue.parallel.group import ALONE, Group

_SCORED_BYTES = 64 << 20
"""Limit of float32 logits of scored rows at a time. Scoring them takes three times as much
memory."""


class Block:
    """T tokens, H hidden size."""

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, Tensor], layer: int, group: Group
    ) -> None:
        at = f"layers.{layer}"
        self._layer = layer
        self._group = group
        self._eps = config.rms_norm_eps
        self._mixer_norm = weights[f"{at}.mixer_norm"]
        self._mlp_norm = weights[f"{at}.mlp_norm"]
        self._mixer: Attention | GatedDeltaNet
        if config.layer_types[layer] is LayerKind.ATTENTION:
            self._mixer = Attention(config, weights, at)
        else:
            self._mixer = GatedDeltaNet(config, weights, at)
        self._mlp = mlp_of(config, weights, f"{at}.mlp")

    def mix(self, stream: Stream, batch: Batch, rotary: Rotary, cache: CacheTensors) -> Stream:
        """The part of the block that reads and writes the cache."""
        x_TH, normed_TH = add_norm(stream, self._mixer_norm, self._group, eps=self._eps)
        if isinstance(self._mixer, Attention):
            return x_TH, self._mixer(normed_TH, batch, rotary, cache.of("kv", self._layer))
        recurrent = cache.of("recurrent", self._layer)
        return x_TH, self._mixer(normed_TH, batch, recurrent, cache.of("conv", self._layer))

    def mix_last(self, stream: Stream, batch: Batch, rotary: Rotary, cache: CacheTensors) -> Stream:
        """As `mix`, with the stream of the batch's last rows only."""
        assert batch.last is not None
        rows_R = batch.last.rows_R
        if not isinstance(self._mixer, Attention):
            return rows_of(self.mix(stream, batch, rotary, cache), rows_R)
        x_TH, normed_TH = add_norm(stream, self._mixer_norm, self._group, eps=self._eps)
        pages = cache.of("kv", self._layer)
        self._mixer.store(normed_TH, batch, rotary, pages)
        tables = (rotary[0][rows_R], rotary[1][rows_R])
        return x_TH[rows_R], self._mixer(normed_TH[rows_R], batch.of_last_rows(), tables, pages)

    def feed_forward(self, stream: Stream) -> Stream:
        x_TH, normed_TH = add_norm(stream, self._mlp_norm, self._group, eps=self._eps)
        return x_TH, self._mlp(normed_TH)


class Qwen3_5:
    """T tokens, R rows to predict from, D tokens to draft from, H hidden size, Y vocabulary."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        *,
        with_mtp: bool,
        group: Group = ALONE,
    ) -> None:
        """`with_mtp`: the cache has the fields of an MTP layer, which the model fills. `group`: the
        ranks that compute the model together; config and weights are this rank's part."""
        self._config = config
        self._group = group
        self.num_layers = config.num_layers
        self._embed = weights["embed"]
        rope = config.attention
        frequencies_R = rotary_frequencies(rope.rotary_dim, theta=rope.rope_theta)
        self._frequencies_R = frequencies_R.to(self._embed.device)
        self._blocks = [Block(config, weights, layer, group) for layer in range(config.num_layers)]
        self._norm = weights["norm"]
        self._lm_head = weight_of(weights, "lm_head")
        self._mtp = MtpLayer(config, weights, group) if with_mtp else None

    def forward(
        self,
        batch: Batch,
        cache: CacheTensors,
        on_layer: Callable[[int], None] | None,
        on_scored: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Float32 logits [R, Y] for each of the batch's `logit_rows`. Only the first rank uses
        them.

        `on_layer(i)` is called once layer i no longer uses the cache; the MTP layer is the last.
        Then `on_scored` gets the logits of `scored_rows`, in order, some rows at a time.
        """
        rotary = self.rotary(batch.positions_T)
        stream: Stream = (F.embedding(batch.token_ids_T, self._embed), None)
        logit_rows_R = batch.logit_rows_R if batch.last is None else batch.last.logit_rows_R
        for layer, block in enumerate(self._blocks):
            is_last = batch.last is not None and layer == self.num_layers - 1
            mix = block.mix_last if is_last else block.mix
            stream = mix(stream, batch, rotary, cache)
            if on_layer is not None:
                on_layer(layer)
            stream = block.feed_forward(stream)
        if self._mtp is None:
            if batch.scored_rows_S is not None:
                self._score(self._normed(rows_of(stream, batch.scored_rows_S)), on_scored)
            return self._logits(self._normed(rows_of(stream, logit_rows_R)))
        hidden_TH = self._normed(stream)
        self._mtp.store(hidden_TH, batch, rotary, cache)
        if on_layer is not None:
            on_layer(self._mtp.number)
        if batch.scored_rows_S is not None:
            self._score(hidden_TH[batch.scored_rows_S], on_scored)
        return self._logits(hidden_TH[batch.logit_rows_R])

    def draft(self, hidden_DH: Tensor, batch: DraftBatch) -> tuple[Tensor, Tensor]:
        """As `MtpLayer.draft`."""
        assert self._mtp is not None, "drafts need an MTP layer"
        return self._mtp.draft(hidden_DH, batch)

    def rotary(self, positions_T: Tensor) -> Rotary:
        """The rotary tables for queries and keys at these positions."""
        return rotary_tables(positions_T, self._frequencies_R)

    def _normed(self, stream: Stream) -> Tensor:
        """The last hidden states, the head's input."""
        return add_norm(stream, self._norm, self._group, eps=self._config.rms_norm_eps)[1]

    def _score(self, hidden_SH: Tensor, on_scored: Callable[[Tensor], None] | None) -> None:
        assert on_scored is not None, "scored rows need `on_scored`"
        num_rows = max(_SCORED_BYTES // (4 * self._config.vocab_size), 1)
        for first in range(0, len(hidden_SH), num_rows):
            on_scored(self._logits(hidden_SH[first : first + num_rows]))

    def _logits(self, hidden_RH: Tensor) -> Tensor:
        own_RY = self._lm_head.matmul(hidden_RH, Epilogue.FLOAT32)
        return self._group.gather(own_RY, self._config.vocab_size)
