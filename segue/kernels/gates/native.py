"""Gates on a CPU, each in one pass over memory."""

from __future__ import annotations

import torch
from torch import Tensor

from segue.kernels.native.library import UnsuitableInputs, are_plain, operators

_silu = operators("silu_gate", "pp" + "ll")
_sigmoid = operators("sigmoid_gate", "ppp" + "lllll")
_decay = operators("decay_and_rate", "pppppp" + "lll")


def silu_gate(gate_up_TJ: Tensor) -> Tensor:
    if not gate_up_TJ.is_contiguous():
        raise UnsuitableInputs
    num_tokens, width = gate_up_TJ.shape[0], gate_up_TJ.shape[1] // 2
    out_TI = torch.empty(num_tokens, width, dtype=gate_up_TJ.dtype)
    _silu(gate_up_TJ.dtype)(gate_up_TJ.data_ptr(), out_TI.data_ptr(), num_tokens, width)
    return out_TI


def sigmoid_gate(x_TQX: Tensor, gate_TQX: Tensor) -> Tensor:
    if not x_TQX.is_contiguous() or gate_TQX.stride(2) != 1 or gate_TQX.dtype != x_TQX.dtype:
        raise UnsuitableInputs
    out_TQX = torch.empty(x_TQX.shape, dtype=x_TQX.dtype)
    _sigmoid(x_TQX.dtype)(
        x_TQX.data_ptr(),
        gate_TQX.data_ptr(),
        out_TQX.data_ptr(),
        *x_TQX.shape,
        *gate_TQX.stride()[:2],
    )
    return out_TQX


def decay_and_rate(
    dt_TN: Tensor, rate_TN: Tensor, minus_a_N: Tensor, dt_bias_N: Tensor
) -> tuple[Tensor, Tensor]:
    are_rows = dt_TN.stride(1) == 1 and dt_TN.stride() == rate_TN.stride()
    if not are_rows or not are_plain(torch.float32, minus_a_N, dt_bias_N):
        raise UnsuitableInputs
    log_decay_TN = torch.empty(dt_TN.shape, dtype=torch.float32)
    rate_out_TN = torch.empty(dt_TN.shape, dtype=torch.float32)
    _decay(dt_TN.dtype)(
        dt_TN.data_ptr(),
        rate_TN.data_ptr(),
        minus_a_N.data_ptr(),
        dt_bias_N.data_ptr(),
        log_decay_TN.data_ptr(),
        rate_out_TN.data_ptr(),
        *dt_TN.shape,
        dt_TN.stride(0),
    )
    return log_decay_TN, rate_out_TN
