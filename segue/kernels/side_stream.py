"""A second CUDA stream for independent work; on a CPU it does nothing.

    with side.fork():         after all work queued so far,
        y = small(x)          on the second stream,
    z = large(x)              while this stream continues
    side.join()               from now on y may be read

A fork and its join can be captured in a CUDA graph. Memory needs no further care as long as `x`
lives until the join: memory allocated on the second stream is reused only after a later fork, which
waits for everything that read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch


class SideStream:
    """The side stream of one device; all instances of a device share the same stream."""

    def __init__(self, device: torch.device) -> None:
        self._stream = _second_stream(device) if device.type == "cuda" else None

    @contextmanager
    def fork(self) -> Iterator[None]:
        """Work queued inside runs in parallel with work queued after it, until `join`."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """Make all work queued from now on wait for the forked work."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)


@cache
def _second_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
