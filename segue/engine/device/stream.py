"""A queue of work on a device that does not wait for other queues."""

from __future__ import annotations

import contextlib

import torch


class WorkStream:
    """On a GPU, a stream of its own: other threads' copies, on the default stream or their own,
    neither wait for it nor block it. On a CPU, work runs at once.
    """

    def __init__(self, device: str) -> None:
        self._stream = _new_stream() if device == "cuda" else None

    def use(self) -> contextlib.AbstractContextManager[object]:
        """Work that is launched inside the block is queued on this stream."""
        return contextlib.nullcontext() if self._stream is None else _using(self._stream)

    def wait(self) -> None:
        """Wait until all queued work is done."""
        if self._stream is not None:
            self._stream.synchronize()


def _new_stream() -> torch.cuda.Stream:
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's


def _using(stream: torch.cuda.Stream) -> contextlib.AbstractContextManager[object]:
    return torch.cuda.stream(stream)
