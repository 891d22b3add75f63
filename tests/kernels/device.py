"""Where kernels run in tests: on the GPU, or interpreted on a CPU."""

from __future__ import annotations

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

DTYPES = [torch.float32, torch.bfloat16] if DEVICE == "cuda" else [torch.float32, torch.float16]
"""Of activations. The interpreter takes bfloat16 for 16-bit integers, so it gets float16 there."""
