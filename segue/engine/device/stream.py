"""Asynchronous work on a device: streams, and copies that the host does not wait for."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor


class WorkStream:
    """On a GPU, a separate stream: other threads' copies, on other streams, neither wait for it nor
    block it. On a CPU, work runs at once."""

    def __init__(self, device: str) -> None:
        self._stream = _new_stream() if device == "cuda" else None

    def use(self) -> contextlib.AbstractContextManager[object]:
        """Work launched inside the block is queued on this stream."""
        return contextlib.nullcontext() if self._stream is None else _using(self._stream)

    def wait(self) -> None:
        """Wait until all queued work is done."""
        if self._stream is not None:
            self._stream.synchronize()


def _new_stream() -> torch.cuda.Stream:
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's


def _using(stream: torch.cuda.Stream) -> contextlib.AbstractContextManager[object]:
    return torch.cuda.stream(stream)


def to_device(
    values: Sequence[float],
    device: torch.device,
    *,
    out: Tensor | None = None,
    dtype: torch.dtype = torch.int64,
) -> Tensor:
    """Copies to the device, into `out` if given, in one copy that the host does not wait for.

    torch reuses pinned memory only after the copies from it are done, so a block that a step in
    flight uses is never overwritten.
    """
    host = torch.tensor(values, dtype=dtype)
    if device.type != "cpu":
        host = host.pin_memory()
    return host.to(device, non_blocking=True) if out is None else out.copy_(host, non_blocking=True)
