"""Root-mean-square norm over the last dimension: the model's, and the gated one of GDN layers."""

from segue.kernels.rms_norm.reference import gated_rms_norm, rms_norm

__all__ = ["gated_rms_norm", "rms_norm"]
