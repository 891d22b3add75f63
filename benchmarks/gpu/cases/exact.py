"""The operators by their definitions in float64, for checks at served sizes.

Slow, and independent of the references, which compute in float32. Letters are those of the
operators' references.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels.gated_delta_step import StepWeights
from segue.kernels.product.reference import Epilogue

L2_EPS = 1e-6
Rounding = Callable[[Tensor], Tensor]


def rms_norm(x: Tensor, weight_H: Tensor, eps: float) -> Tensor:
    """The weight is an offset from one."""
    return _normed(x.double(), eps) * (1 + weight_H.double())


def gated_rms_norm(x: Tensor, gate: Tensor, weight_H: Tensor, eps: float) -> Tensor:
    return _normed(x.double(), eps) * weight_H.double() * F.silu(gate.double())


def _normed(x: Tensor, eps: float) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt()


def rotated(x_TNX: Tensor, cos_T1R: Tensor, sin_T1R: Tensor) -> Tensor:
    """Rotates the first dimensions, by tables with the signs of both halves."""
    rotary_dim = cos_T1R.shape[-1]
    turned, rest = x_TNX[..., :rotary_dim].double(), x_TNX[..., rotary_dim:].double()
    first, second = turned.chunk(2, -1)
    turned = turned * cos_T1R.double() + torch.cat([second, first], -1) * sin_T1R.double()
    return torch.cat([turned, rest], -1)


def causal_conv(inputs_TC: Tensor, weight_CW: Tensor) -> Tensor:
    """`inputs_TC` starts with the W - 1 inputs before the first token."""
    windows_TCW = inputs_TC.double().unfold(0, weight_CW.shape[1], 1)
    return F.silu((windows_TCW * weight_CW.double()).sum(-1))


def delta_rule(inputs: Sequence[Tensor], state_HKV: Tensor) -> tuple[Tensor, Tensor]:
    """Of q, k [T, G, K], v [T, H, V], log decay and rate [T, H] of one sequence, token by token:
    outputs [T, H, V] and the states after each token [T, H, K, V]; of more than eight tokens only
    the last state, [1, H, K, V]."""
    q_TGK, k_TGK, v_THV, log_decay_TH, rate_TH = inputs
    repeats = v_THV.shape[1] // q_TGK.shape[1]
    q_THK, k_THK = (_unit(x.double()).repeat_interleave(repeats, 1) for x in (q_TGK, k_TGK))
    q_THK = q_THK * q_THK.shape[-1] ** -0.5
    v_THV, rate_TH, decay_TH = v_THV.double(), rate_TH.double(), log_decay_TH.double().exp()
    state_HKV = state_HKV.double()
    outs, states = list[Tensor](), list[Tensor]()
    for t in range(len(v_THV)):
        state_HKV = state_HKV * decay_TH[t, :, None, None]
        recalled_HV = (state_HKV * k_THK[t, :, :, None]).sum(1)
        new_HV = (v_THV[t] - recalled_HV) * rate_TH[t, :, None]
        state_HKV = state_HKV + k_THK[t, :, :, None] * new_HV[:, None, :]
        outs.append((state_HKV * q_THK[t, :, :, None]).sum(1))
        states = [*states, state_HKV] if len(v_THV) <= 8 else [state_HKV]
    return torch.stack(outs), torch.stack(states)


def delta_step(
    inputs_TC: Tensor,
    gate_THV: Tensor,
    rate_TH: Tensor,
    dt_TH: Tensor,
    weights: StepWeights,
    state_HKV: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gated outputs and states after each token, of inputs as for `causal_conv`. The convolution is
    rounded as if it were a separate operator."""
    num_heads, k_dim, v_dim = state_HKV.shape
    mixed_TC = causal_conv(inputs_TC, weights.conv_CW).to(inputs_TC.dtype)
    v_width = num_heads * v_dim
    q_width = (mixed_TC.shape[1] - v_width) // 2
    q_TY, k_TY, v_TY = torch.split(mixed_TC, [q_width, q_width, v_width], 1)
    q_TGK, k_TGK = (x.reshape(len(x), -1, k_dim) for x in (q_TY, k_TY))
    log_decay_TH = weights.minus_a_H * F.softplus(dt_TH.double() + weights.dt_bias_H)
    gates = (log_decay_TH, rate_TH.double().sigmoid())
    out_THV, states = delta_rule(
        (q_TGK, k_TGK, v_TY.reshape(-1, num_heads, v_dim), *gates), state_HKV
    )
    return gated_rms_norm(out_THV, gate_THV, weights.norm_V, weights.eps), states


def _unit(x: Tensor) -> Tensor:
    return x * (x.square().sum(-1, keepdim=True) + L2_EPS).rsqrt()


def attention(q_QX: Tensor, pages_P2GOX: Tensor, num_keys: int) -> Tensor:
    """One query over the first keys of a sequence's pages, head by head of keys."""
    num_kv_heads, head_dim = pages_P2GOX.shape[2], pages_P2GOX.shape[4]
    outs = []
    for head, q_RX in enumerate(q_QX.double().chunk(num_kv_heads)):
        k_LX, v_LX = (
            pages_P2GOX[:, which, head].reshape(-1, head_dim)[:num_keys].double()
            for which in range(2)
        )
        outs.append((q_RX @ k_LX.mT * head_dim**-0.5).softmax(-1) @ v_LX)
    return torch.cat(outs)


def experts(
    x_TH: Tensor,
    router_logits_TE: Tensor,
    gate_up: Callable[[int], Tensor],
    down: Callable[[int], Tensor],
    experts_per_token: int,
    rounded: Rounding = Tensor.double,
) -> tuple[Tensor, Tensor]:
    """Outputs [T, A, H] and weights [T, A], with each expert's matrices by its number. `rounded`:
    what the inputs of both products are rounded to."""
    logits_TE, ids_TE = router_logits_TE.double().sort(dim=1, descending=True, stable=True)
    weights_TA = logits_TE[:, :experts_per_token].softmax(1)
    y_TAH = x_TH.new_empty(len(x_TH), experts_per_token, x_TH.shape[1], dtype=torch.float64)
    for t, ids in enumerate(ids_TE[:, :experts_per_token].tolist()):
        for a, expert in enumerate(ids):
            gate, up = (gate_up(expert).double() @ rounded(x_TH[t]).double()).chunk(2)
            y_TAH[t, a] = down(expert).double() @ rounded(F.silu(gate) * up).double()
    return y_TAH, weights_TA


def product(x_TK: Tensor, weight_NK: Tensor, epilogue: Epilogue) -> Tensor:
    out_TN = x_TK.double() @ weight_NK.mT
    if epilogue is not Epilogue.SILU_GATE:
        return out_TN
    gate, up = out_TN.chunk(2, 1)
    return F.silu(gate) * up


def some_rows(num_rows: int, most: int) -> Sequence[int]:
    """At most `most` row numbers, with the first and the last."""
    if num_rows <= most:
        return range(num_rows)
    return sorted({round(i * (num_rows - 1) / (most - 1)) for i in range(most)})
