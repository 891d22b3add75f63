"""Root-mean-square norm over the last dimension: the model's norm, alone and fused with adjacent
operations, and the gated norm of GDN layers."""

from __future__ import annotations

from segue.kernels import dispatch
from segue.kernels.rms_norm import reference

__all__ = ["add_rms_norm", "gated_rms_norm", "join_rms_norms", "rms_norm"]

rms_norm = dispatch.operator(reference.rms_norm, "triton", "native")
add_rms_norm = dispatch.operator(reference.add_rms_norm, "triton", "native")
join_rms_norms = dispatch.operator(reference.join_rms_norms, "triton", "native")
gated_rms_norm = dispatch.operator(reference.gated_rms_norm, "triton_gated", "native")
