"""Depthwise causal convolution with SiLU, which keeps its last inputs in slots.

T packed tokens, N sequences of a prefill, M prefill segments, D sequences of a decode, S slots, C
channels, W kernel width.
A slot holds the W - 1 inputs before the next token, oldest first.
"""

from __future__ import annotations

from segue.kernels import dispatch
from segue.kernels.causal_conv import reference

__all__ = ["causal_conv_decode", "causal_conv_prefill"]

causal_conv_prefill = dispatch.operator(reference.causal_conv_prefill, "triton", "native")
causal_conv_decode = dispatch.operator(reference.causal_conv_decode, "triton_decode", "native")
