"""The operators between an attention layer's packed projection and attention itself: norm and
rotate queries and keys, split off the output gate, write keys and values to their pages."""

from __future__ import annotations

from segue.kernels import dispatch
from segue.kernels.attention_input import reference

__all__ = ["attention_input", "store_keys_and_values"]

attention_input = dispatch.operator(reference.attention_input, "triton", "native")
store_keys_and_values = dispatch.operator(reference.store_keys_and_values, "triton", "native")
