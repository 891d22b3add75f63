"""Plans a pass, then attends in each of its layers."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from segue.kernels.paged_attention.flashinfer.page_lists import PageLists, PageSpan
from segue.kernels.paged_attention.flashinfer.suitable import (
    BLACKWELL,
    AttentionShape,
    Gpu,
    fills,
    why_not,
)

Attend = Callable[[Tensor, Tensor], Tensor]
"""From queries [T, Q, X] and a layer's pages [Z, 2, G, O, X] to outputs, as `attend_prefill` of the
sequences that were planned."""

WORKSPACE_BYTES = 8 << 20
"""For outputs of split keys, which neither kernel has. As large as the package's own memory for the
plan, because on Blackwell it passes the one with the size of the other."""


def is_installed() -> bool:
    return importlib.util.find_spec("flashinfer") is not None


def package() -> Any:
    """Takes seconds. Raises ImportError."""
    return importlib.import_module("flashinfer")


class PromptAttention:
    """For one pass at a time, all on one stream."""

    def __init__(
        self, shape: AttentionShape, device: torch.device, gpu: Gpu, *, always: bool = False
    ) -> None:
        """`always`: also where our kernel should be faster. Raises ValueError with the answer of
        `why_not`."""
        if reason := why_not(shape, gpu):
            raise ValueError(reason)
        flashinfer = package()
        self.shape = shape
        self.device = device
        self._gpu = gpu
        self._always = always
        self._version = flashinfer.__version__
        self._wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(
            torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device),
            "HND",
            backend=gpu.backend,
        )

    def __str__(self) -> str:
        return f"FlashInfer {self._version} ({self._gpu.backend})"

    def plan(self, spans: Sequence[PageSpan]) -> Attend | None:
        """For a pass with these prompts, one after the other; None: our kernel should compute them.

        The passes before must be done: the plan is copied from host memory that is written again,
        and what they were given is no longer valid.
        """
        lengths = [span.num_tokens for span in spans]
        if self._always or fills(lengths, self.shape.num_heads, self._gpu):
            return self.planned(spans)
        return None

    def planned(self, spans: Sequence[PageSpan]) -> Attend:
        """As `plan`, but never None."""
        shape = self.shape
        lists = PageLists.of(spans, shape.page_tokens)
        self._wrapper.plan(
            lists.qo_indptr_N1,
            lists.kv_indptr_N1,
            lists.kv_indices_K,
            lists.last_page_len_N,
            shape.num_heads,
            shape.num_kv_heads,
            shape.head_dim,
            shape.page_tokens,
            causal=True,
            q_data_type=shape.dtype,
            kv_data_type=shape.page_dtype,
        )
        if self._gpu.backend == BLACKWELL:
            places = lists.tails(shape.page_tokens)
            return partial(self._attend, tails=[place.to(self.device) for place in places])
        return self._attend

    def _attend(
        self, q_TQX: Tensor, pages_Z2GOX: Tensor, *, tails: Sequence[Tensor] | None = None
    ) -> Tensor:
        if tails is not None:
            # Blackwell's kernel reads whole pages, and zero times what another sequence may have
            # left there, if it is not finite, is not zero. A pass writes tokens to each of these
            # pages, so no other sequence has it.
            pages, offsets = tails
            pages_Z2GOX[pages, 1, :, offsets] = 0
        out_TQX = torch.empty_like(q_TQX)
        # Without programmatic dependent launch: it starts when the kernel before it has ended.
        self._wrapper.run(q_TQX, pages_Z2GOX, out=out_TQX, enable_pdl=False)
        return out_TQX
