"""Gated Delta Net: a short convolution, then a recurrent state per head instead of a cache."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from segue.kernels.causal_conv import causal_conv_decode, causal_conv_prefill
from segue.kernels.gated_delta_rule import gated_delta_rule_decode, gated_delta_rule_prefill
from segue.kernels.gates import decay_and_rate
from segue.kernels.rms_norm import gated_rms_norm
from segue.model.batch import Batch, DecodeRows, PrefillSegments
from segue.model.config import ModelConfig
from segue.model.weight import weight_of


class GatedDeltaNet:
    """T tokens, H hidden size, C convolution channels, N value heads, V value dimension."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, Tensor], at: str) -> None:
        self._shape = config.gdn
        self._eps = config.rms_norm_eps
        self._in_proj = weight_of(weights, f"{at}.in_proj")
        self._conv = weights[f"{at}.conv"]
        self._minus_a = -weights[f"{at}.A_log"].exp()
        self._dt_bias = weights[f"{at}.dt_bias"]
        self._norm = weights[f"{at}.gdn_norm"]
        self._out_proj = weight_of(weights, f"{at}.out_proj")

    def __call__(self, x_TH: Tensor, batch: Batch, recurrent: Tensor, conv: Tensor) -> Tensor:
        """The mixer's output [T, H]; updates both states in place, as the batch specifies."""
        shape = self._shape
        widths = [shape.conv_channels, shape.v_width, shape.num_v_heads, shape.num_v_heads]
        qkv_TC, z_TY, rate_TN, dt_TN = torch.split(self._in_proj.matmul(x_TH), widths, dim=1)
        gates_TN = decay_and_rate(dt_TN, rate_TN, self._minus_a, self._dt_bias)
        outputs = []
        if decode := batch.decode:
            rows = slice(decode.num_tokens)
            gates = (gates_TN[0][rows], gates_TN[1][rows])
            outputs.append(self._decode(qkv_TC[rows], gates, decode, recurrent, conv))
        if prefill := batch.prefill:
            rows = slice(batch.num_decode_tokens, None)
            gates = (gates_TN[0][rows], gates_TN[1][rows])
            outputs.append(self._prefill(qkv_TC[rows], gates, prefill.segments, recurrent, conv))
        out_TNV = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        normed_TNV = gated_rms_norm(out_TNV, z_TY.view_as(out_TNV), self._norm, eps=self._eps)
        return self._out_proj.matmul(normed_TNV.flatten(1))

    def _decode(
        self,
        qkv_TC: Tensor,
        gates: tuple[Tensor, Tensor],
        decode: DecodeRows,
        recurrent: Tensor,
        conv: Tensor,
    ) -> Tensor:
        slots_in, slots_out, sizes = decode.slots_in_D, decode.slots_out_T, decode.round_sizes
        mixed_TC = causal_conv_decode(
            qkv_TC, self._conv, conv, slots_in_D=slots_in, slots_out_T=slots_out, round_sizes=sizes
        )
        return gated_delta_rule_decode(
            *self._heads(mixed_TC),
            *gates,
            recurrent,
            slots_in_D=slots_in,
            slots_out_T=slots_out,
            round_sizes=sizes,
        )

    def _prefill(
        self,
        qkv_TC: Tensor,
        gates: tuple[Tensor, Tensor],
        segments: PrefillSegments,
        recurrent: Tensor,
        conv: Tensor,
    ) -> Tensor:
        where = {
            "cu_tokens_M1": segments.cu_tokens_M1,
            "slots_out_M": segments.slots_out_M,
            "cu_segments_N1": segments.cu_segments_N1,
            "slots_in_N": segments.slots_in_N,
        }
        mixed_TC = causal_conv_prefill(qkv_TC, self._conv, conv, **where)
        return gated_delta_rule_prefill(*self._heads(mixed_TC), *gates, recurrent, **where)

    def _heads(self, mixed_TC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = self._shape
        q, k, v = torch.split(mixed_TC, [shape.q_width, shape.q_width, shape.v_width], dim=1)
        return (
            q.view(-1, shape.num_k_heads, shape.k_dim),
            k.view(-1, shape.num_k_heads, shape.k_dim),
            v.view(-1, shape.num_v_heads, shape.v_dim),
        )
