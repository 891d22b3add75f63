"""The bookkeeping of a decode step around its passes and samples: see docs/kernels.md."""

from __future__ import annotations

from segue.kernels import dispatch
from segue.kernels.decode_step import reference
from segue.kernels.decode_step.rows import END_IDS, Column, OpenStep, StepMemory

__all__ = [
    "END_IDS",
    "Column",
    "OpenStep",
    "StepMemory",
    "add_draft",
    "close_step",
    "open_step",
]

open_step = dispatch.operator(reference.open_step, "triton_open")
add_draft = dispatch.operator(reference.add_draft, "triton_close")
close_step = dispatch.operator(reference.close_step, "triton_close")
