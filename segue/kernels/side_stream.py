"""A second CUDA stream for work that does not wait for what follows it; on a CPU, nothing.

    with side.fork():         after all that was queued so far,
        y = small(x)          on the second stream,
    z = large(x)              while this one goes on
    side.join()               until here: from now on y may be read

A fork and its join can be captured in a CUDA graph. Memory needs no further care as long as `x`
lives until the join: what the second stream allocated is used again only after a later fork, which
waits for everything that read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch


class SideStream:
    """Of one device; all of a device are the same stream."""

    def __init__(self, device: torch.device) -> None:
        self._stream = _second_stream(device) if device.type == "cuda" else None

    @contextmanager
    def fork(self) -> Iterator[None]:
        """What is queued inside runs beside what is queued after it, until `join`."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """What is queued from now on waits for what was forked."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)


@cache
def _second_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
