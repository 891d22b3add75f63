"""The gated delta rule: chunks of long sequences in parallel, or a few tokens of many sequences.

T packed tokens, N sequences of a prefill, M prefill segments, D sequences of a decode, S slots, G
key heads, H value heads (a multiple of G; key head g serves adjacent value heads), K and V head
dimensions.
"""

from __future__ import annotations

from segue.kernels import dispatch
from segue.kernels.gated_delta_rule import reference

__all__ = ["gated_delta_rule_decode", "gated_delta_rule_prefill"]

gated_delta_rule_prefill = dispatch.operator(
    reference.gated_delta_rule_prefill, "triton_prefill", "native"
)
gated_delta_rule_decode = dispatch.operator(
    reference.gated_delta_rule_decode, "triton_decode", "native"
)
