"""Depthwise causal convolution with SiLU, carrying its last inputs in slots."""

from segue.kernels.causal_conv.reference import causal_conv_prompts, causal_conv_runs

__all__ = ["causal_conv_prompts", "causal_conv_runs"]
