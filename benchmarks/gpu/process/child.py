"""The process that measures: prints a JSON object a line for its parent (`supervise`).

A kernel that faults destroys its process' GPU context, and one that hangs never returns. So another
process writes down the results and, in these cases, starts a new one after that item.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import replace
from typing import Any

import torch

_STICKY = ("CUDA error", "device-side assert", "illegal memory access")
"""Phrases of errors after which the context is lost."""


@torch.inference_mode()
def run_items(first: int, *, dry: bool, with_flashinfer: bool = True) -> None:
    """Runs the plan from item `first` on. Exits with 1 when the GPU's context is lost."""
    if not dry and not torch.cuda.is_available():
        _tell(fatal="no CUDA device here; --dry runs tiny sizes on the CPU")
        return
    if dry:
        # Triton reads it on its first import.
        os.environ["TRITON_INTERPRET"] = "1"
    from benchmarks.gpu import plan
    from benchmarks.gpu.timing import measure_ceilings

    settings = plan.TRIAL if dry else plan.LEASE
    settings = replace(settings, with_flashinfer=with_flashinfer)
    limits = measure_ceilings(settings.device)
    _tell(
        device="cpu, dry" if dry else torch.cuda.get_device_name(),
        copy_bytes_per_s=limits.copy_bytes_per_s,
        matmul_flops_per_s=limits.matmul_flops_per_s,
    )
    for number, item in enumerate(plan.plan(settings)):
        if number < first:
            continue
        _tell(item=number, name=item.name)
        try:
            for row in item.rows(limits):
                _tell(row=row)
        except Exception as error:
            # A lease is short: the other items are still measured.
            text = "".join(traceback.format_exception(error, limit=-4))
            _tell(failed=item.name, error=text)
            if any(phrase in str(error) for phrase in _STICKY):
                sys.exit(1)
            del error
        plan.release(settings.device)
    _tell(end=True)


def _tell(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
