"""A queue of work on a device that waits for nobody else's."""

from __future__ import annotations

import contextlib

import torch


class WorkStream:
    """On a GPU a stream of its own: copies of other threads, which are on the default stream or on
    theirs, neither wait for it nor hold it up. On a CPU work is done when it is asked for.
    """

    def __init__(self, device: str) -> None:
        self._stream = _new_stream() if device == "cuda" else None

    def use(self) -> contextlib.AbstractContextManager[object]:
        """What is asked for in the block is queued here."""
        return contextlib.nullcontext() if self._stream is None else _using(self._stream)

    def wait(self) -> None:
        """Until all that was queued is done."""
        if self._stream is not None:
            self._stream.synchronize()


def _new_stream() -> torch.cuda.Stream:
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's


def _using(stream: torch.cuda.Stream) -> contextlib.AbstractContextManager[object]:
    return torch.cuda.stream(stream)
