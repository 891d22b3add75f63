"""Gated Delta Net: a short convolution, then a recurrent state per head instead of a cache."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from segue.kernels.causal_conv import causal_conv_prefill
from segue.kernels.gated_delta_rule import gated_delta_rule_prefill
from segue.kernels.gated_delta_step import StepWeights, gated_delta_step
from segue.kernels.gates import decay_and_rate
from segue.kernels.rms_norm import gated_rms_norm
from segue.model.batch import Batch, PrefillSegments
from segue.model.config import ModelConfig
from segue.model.weight import weight_of


class GatedDeltaNet:
    """T tokens, H hidden size, C convolution channels, N value heads, V value dimension."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, Tensor], at: str) -> None:
        self._shape = config.gdn
        self._in_proj = weight_of(weights, f"{at}.in_proj")
        self._weights = StepWeights(
            conv_CW=weights[f"{at}.conv"],
            minus_a_H=-weights[f"{at}.A_log"].exp(),
            dt_bias_H=weights[f"{at}.dt_bias"],
            norm_V=weights[f"{at}.gdn_norm"],
            eps=config.rms_norm_eps,
        )
        self._out_proj = weight_of(weights, f"{at}.out_proj")

    def __call__(self, x_TH: Tensor, batch: Batch, recurrent: Tensor, conv: Tensor) -> Tensor:
        """The mixer's output [T, H]. Updates both states in place, as specified by the batch."""
        shape = self._shape
        widths = [shape.conv_channels, shape.v_width, shape.num_v_heads, shape.num_v_heads]
        qkv_TC, z_TY, rate_TN, dt_TN = torch.split(self._in_proj.matmul(x_TH), widths, dim=1)
        z_TNV = z_TY.view(-1, shape.num_v_heads, shape.v_dim)
        outputs = []
        if decode := batch.decode:
            rows = slice(decode.num_tokens)
            outputs.append(
                gated_delta_step(
                    qkv_TC[rows],
                    z_TNV[rows],
                    rate_TN[rows],
                    dt_TN[rows],
                    self._weights,
                    recurrent,
                    conv,
                    slots_in_D=decode.slots_in_D,
                    slots_out_T=decode.slots_out_T,
                    round_sizes=decode.round_sizes,
                )
            )
        if prefill := batch.prefill:
            rows, weights = slice(batch.num_decode_tokens, None), self._weights
            gates_TN = decay_and_rate(
                dt_TN[rows], rate_TN[rows], weights.minus_a_H, weights.dt_bias_H
            )
            prompts_TNV = self._prefill(qkv_TC[rows], gates_TN, prefill.segments, recurrent, conv)
            outputs.append(
                gated_rms_norm(prompts_TNV, z_TNV[rows], weights.norm_V, eps=weights.eps)
            )
        out_TNV = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return self._out_proj.matmul(out_TNV.flatten(1))

    def _prefill(
        self,
        qkv_TC: Tensor,
        gates_TN: tuple[Tensor, Tensor],
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
        mixed_TC = causal_conv_prefill(qkv_TC, self._weights.conv_CW, conv, **where)
        return gated_delta_rule_prefill(*self._heads(mixed_TC), *gates_TN, recurrent, **where)

    def _heads(self, mixed_TC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = self._shape
        q, k, v = torch.split(mixed_TC, [shape.q_width, shape.q_width, shape.v_width], dim=1)
        return (
            q.view(-1, shape.num_k_heads, shape.k_dim),
            k.view(-1, shape.num_k_heads, shape.k_dim),
            v.view(-1, shape.num_v_heads, shape.v_dim),
        )
