"""Finds operations for which a host would wait for its device, or that a CUDA graph cannot hold."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {
    "aten._local_scalar_dense",  # item, int, bool, tolist
    "aten.nonzero",  # boolean indexing too
    "aten.masked_select",
    "aten.unique_consecutive",
    "aten._unique2",
    "aten.unique_dim",
    "aten.bincount",
    "aten.equal",
    "aten.is_nonzero",
    "aten.repeat_interleave.Tensor",
    "aten.lift_fresh",  # torch.tensor and new_tensor: a copy from the host's pageable memory
}


class Synchronising(TorchDispatchMode):
    """While it is on, `found` collects them with the places that called them. Reference operators
    may wait: on a device there are others in their place."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if _waits(func, kwargs):
            place = _place(sys._getframe(1))
            if place is not None:
                self.found.append(f"{func} in {place}")
        return func(*args, **kwargs)


def _waits(func: Any, kwargs: dict[str, Any]) -> bool:
    name = str(func)
    moves = name.startswith("aten._to_copy") and kwargs.get("device") is not None
    return moves or any(name.startswith(each) for each in WAITING)


def _place(frame: FrameType | None) -> str | None:
    """The innermost line of ours; None in a reference operator."""
    place = None
    while frame is not None:
        file = frame.f_code.co_filename
        if "/segue/kernels/" in file and file.endswith("reference.py"):
            return None
        if place is None and ("/segue/" in file or "/tests/" in file):
            place = f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return place


def found_in(call: Callable[[], object]) -> list[str]:
    with Synchronising() as mode:
        call()
    return mode.found
