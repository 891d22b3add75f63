"""The Qwen3.5 text model: embedding, blocks of mixer and MLP, norm, head.

A block's mixer is Gated Delta Net or gated attention; its MLP is dense or a mixture of experts. The
model owns weights only: states and pages belong to the cache, and the batch says which to use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor

from segue.cache.tensors import CacheTensors
from segue.kernels.rms_norm import rms_norm
from segue.kernels.rotary import rotary_tables
from segue.model.attention import Attention
from segue.model.batch import Batch
from segue.model.config import LayerKind, ModelConfig, MoeConfig
from segue.model.gated_delta_net import GatedDeltaNet
from segue.model.mlp import GatedMlp, MixtureOfExperts


class Block:
    """T tokens, H hidden size."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, Tensor], layer: int) -> None:
        at = f"layers.{layer}"
        self._layer = layer
        self._eps = config.rms_norm_eps
        self._mixer_norm = weights[f"{at}.mixer_norm"]
        self._mlp_norm = weights[f"{at}.mlp_norm"]
        self._mixer: Attention | GatedDeltaNet
        if config.layer_types[layer] is LayerKind.ATTENTION:
            self._mixer = Attention(config, weights, at)
        else:
            self._mixer = GatedDeltaNet(config, weights, at)
        self._mlp: GatedMlp | MixtureOfExperts
        if isinstance(config.mlp, MoeConfig):
            self._mlp = MixtureOfExperts(config.mlp, weights, f"{at}.mlp")
        else:
            self._mlp = GatedMlp(weights, f"{at}.mlp")

    def mix(
        self, x_TH: Tensor, batch: Batch, rotary: tuple[Tensor, Tensor], cache: CacheTensors
    ) -> Tensor:
        """Everything that reads or writes the cache."""
        normed_TH = rms_norm(x_TH, self._mixer_norm, eps=self._eps)
        if isinstance(self._mixer, Attention):
            return x_TH + self._mixer(normed_TH, batch, rotary, cache.of("kv", self._layer))
        recurrent = cache.of("recurrent", self._layer)
        return x_TH + self._mixer(normed_TH, batch, recurrent, cache.of("conv", self._layer))

    def feed_forward(self, x_TH: Tensor) -> Tensor:
        return x_TH + self._mlp(rms_norm(x_TH, self._mlp_norm, eps=self._eps))


class Qwen3_5:
    """T tokens, B rows to predict from, H hidden size, Y vocabulary."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, Tensor]) -> None:
        self._config = config
        self._embed = weights["embed"]
        self._blocks = [Block(config, weights, layer) for layer in range(config.num_layers)]
        self._norm = weights["norm"]
        self._lm_head = weights["lm_head"]

    def hidden(
        self, batch: Batch, cache: CacheTensors, on_layer: Callable[[int], None] | None
    ) -> Tensor:
        """The last block's output [T, H]; `on_layer(i)` is called when layer i left the cache."""
        attention = self._config.attention
        rotary = rotary_tables(
            batch.positions_T, rotary_dim=attention.rotary_dim, theta=attention.rope_theta
        )
        x_TH = F.embedding(batch.token_ids_T, self._embed)
        for layer, block in enumerate(self._blocks):
            x_TH = block.mix(x_TH, batch, rotary, cache)
            if on_layer is not None:
                on_layer(layer)
            x_TH = block.feed_forward(x_TH)
        return x_TH

    def logits(self, x_BH: Tensor) -> Tensor:
        """Float32 logits [B, Y] after each of these rows of `hidden`."""
        normed_BH = rms_norm(x_BH, self._norm, eps=self._config.rms_norm_eps)
        return F.linear(normed_BH, self._lm_head).float()
