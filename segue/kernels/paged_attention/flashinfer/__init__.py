"""Attention of prompts by FlashInfer, an optional package, on GPUs for which it has a kernel that
should be faster than ours (`segue/kernels/paged_attention/triton_prefill.py`).

Our pages are its "HND" layout, so it reads them where they are. A pass plans once, from lists on
the host, and all its layers use that plan. Nothing of it is captured in a graph: steps that only
decode have no prompts. What it cannot compute, or hardly better, stays with our kernel.
"""
