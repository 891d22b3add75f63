"""Ends the process that imports this when its parent ends. `nursery` preloads it where it forks."""

from __future__ import annotations

import ctypes
import signal

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """The parent is the thread that started this process. It is not inherited."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


end_with_parent()
