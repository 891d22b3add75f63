"""A Gated Delta Net's decode step between its two projections: convolution, gates, delta rule and
gated norm."""

from __future__ import annotations

from segue.kernels import dispatch
from segue.kernels.gated_delta_step import reference
from segue.kernels.gated_delta_step.reference import StepWeights

__all__ = ["StepWeights", "gated_delta_step"]

gated_delta_step = dispatch.operator(reference.gated_delta_step, "triton", "native")
