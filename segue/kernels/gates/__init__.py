"""The gates between two products of a layer, each in one pass over memory: the MLP's gate,
attention's output gate, and the decay and rate of the gated delta rule."""

from __future__ import annotations

from segue.kernels import dispatch
from segue.kernels.gates import reference

__all__ = ["decay_and_rate", "sigmoid_gate", "silu_gate"]

silu_gate = dispatch.operator(reference.silu_gate, "triton", "native")
sigmoid_gate = dispatch.operator(reference.sigmoid_gate, "triton", "native")
decay_and_rate = dispatch.operator(reference.decay_and_rate, "triton", "native")
