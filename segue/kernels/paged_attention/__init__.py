"""Causal attention over pages, to prefill, decode or verify. `attention_input` stores the keys and
values.

T packed tokens, N sequences of a prefill, D sequences of a decode, Z pages of the pool, P pages of
the longest sequence, O tokens of a page, Q query heads, G key/value heads, X head dimension.
`pages` [Z, 2, G, O, X] has the keys, then the values, of O consecutive tokens, head by head.
Indices are int64. A row of a page table has the pages of one sequence in order, then any ids: they
are not followed, except the first of a row.

On a GPU, queries and pages must be contiguous and of one dtype, and X a power of two from 16 to
256; otherwise ValueError. Nothing waits for the device, so all of it can be captured in a graph.
"""

from __future__ import annotations

from segue.kernels import dispatch
from segue.kernels.paged_attention import reference

__all__ = ["attend_decode", "attend_prefill", "attend_verify"]

attend_prefill = dispatch.operator(reference.attend_prefill, "triton_prefill", "native")
attend_verify = dispatch.operator(reference.attend_verify, "triton_decode", "native")
attend_decode = dispatch.operator(reference.attend_decode, "triton_decode", "native")
