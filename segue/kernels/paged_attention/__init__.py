"""Causal attention over pages: store new keys and values, attend from prompts, runs or tokens."""

from segue.kernels.paged_attention.reference import (
    attend_prompts,
    attend_runs,
    attend_steps,
    write_pages,
)

__all__ = ["attend_prompts", "attend_runs", "attend_steps", "write_pages"]
