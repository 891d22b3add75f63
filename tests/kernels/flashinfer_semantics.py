"""FlashInfer's paged prefill, as its documentation describes it, in plain PyTorch.

`PACKAGE` takes the place of the package. Its wrapper has only the arguments that we give, and
remembers the calls, which `test_flashinfer_calls.py` compares with the package's signatures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from segue.kernels.paged_attention.flashinfer.suitable import BLACKWELL


@dataclass
class Calls:
    """The arguments of each call, and their names."""

    made: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def of(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(args, kwargs) for called, args, kwargs in self.made if called == name]


class Wrapper:
    calls = Calls()
    keys_too_many = 0
    """Queries see this many keys after their own position."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.calls.made.append(("__init__", args, kwargs))
        assert args[1] == "HND"
        self._reads_whole_pages = kwargs["backend"] == BLACKWELL

    def plan(self, *args: Any, **kwargs: Any) -> None:
        self.calls.made.append(("plan", args, kwargs))
        tensors, sizes = args[:4], args[4:]
        for tensor in tensors:
            assert tensor.dtype == torch.int32
            assert tensor.is_cpu, "the plan would wait for the device"
        self._rows, self._bounds, self._indices, self._last = (t.tolist() for t in tensors)
        self._num_heads, self._num_kv_heads, self._head_dim, self._page_size = sizes
        assert kwargs["causal"]

    def run(self, *args: Any, **kwargs: Any) -> Tensor:
        self.calls.made.append(("run", args, kwargs))
        (q, cache), out = args, kwargs["out"]
        assert q.shape == (self._rows[-1], self._num_heads, self._head_dim)
        assert cache.shape[1:] == (2, self._num_kv_heads, self._page_size, self._head_dim)
        for request, last in enumerate(self._last):
            pages = self._indices[self._bounds[request] : self._bounds[request + 1]]
            length = (len(pages) - 1) * self._page_size + last
            rows = range(self._rows[request], self._rows[request + 1])
            for head in range(self._num_heads):
                at = head * self._num_kv_heads // self._num_heads
                keys, values = (
                    torch.cat([cache[page, which, at] for page in pages]).double()
                    for which in (0, 1)
                )
                if not self._reads_whole_pages:
                    keys, values = keys[:length], values[:length]
                for row in rows:
                    # Queries are the last positions.
                    seen = length - len(rows) + (row - rows.start) + 1 + self.keys_too_many
                    scores = keys @ q[row, head].double() / math.sqrt(self._head_dim)
                    scores[seen:] = -math.inf
                    out[row, head] = (scores.softmax(0) @ values).to(out.dtype)
        return out  # type: ignore[no-any-return]


PACKAGE = SimpleNamespace(__version__="0.0", BatchPrefillWithPagedKVCacheWrapper=Wrapper)


@contextmanager
def remembered_calls() -> Iterator[Calls]:
    Wrapper.calls = Calls()
    yield Wrapper.calls
