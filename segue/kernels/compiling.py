"""Compiles Triton kernels in parallel, before they run.

    with compiling(report):
        launch()          # compiles in the background what it would launch, and launches nothing
    launch()              # finds its kernels compiled

A cold start would otherwise compile one kernel after the other, when it is first launched: some
seconds for each. Triton keeps the results on disk (TRITON_CACHE_DIR, else ~/.triton/cache), so a
second start only loads them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Report = Callable[[int, int], None]
"""Called with the number of compiled kernels and of those known so far. From any thread."""

_MAX_THREADS = 16
"""Most of a compilation runs without the GIL: MLIR, LLVM and ptxas."""

_ALLOCATE = {
    getattr(torch.ops.aten, name)
    for name in ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
}


@contextmanager
def compiling(report: Report | None = None, *, ignore_errors: bool = False) -> Iterator[None]:
    """In this context a launch by this thread compiles, in another thread; outputs stay unwritten.
    Leaving waits for all. Raises the first compiler error, unless `ignore_errors`: then the launch
    will raise it. Only one thread of a process may use this at a time, while no other launches.
    """
    import triton
    from triton.runtime.jit import JITFunction

    launch = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        return launch(self, *args, grid=grid, warmup=True, **kwargs)

    num_threads = min(len(os.sched_getaffinity(0)), _MAX_THREADS)
    with (
        ThreadPoolExecutor(num_threads, thread_name_prefix="compile") as pool,
        triton.AsyncCompileMode(_Counted(pool, report), ignore_errors=ignore_errors),
    ):
        JITFunction.run = compile_only
        try:
            yield
        finally:
            JITFunction.run = launch


def zeroed_memory() -> AbstractContextManager[object]:
    """Memory that is allocated in this context is 0. So code that indexes with the results of a
    kernel, which `compiling` does not launch, stays within its tensors."""
    return _Zeroing()  # type: ignore[no-untyped-call]  # torch's


class _Zeroing(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        return made.zero_() if func.overloadpacket in _ALLOCATE else made


class _Counted(Executor):
    def __init__(self, pool: Executor, report: Report | None) -> None:
        self._pool = pool
        self._report = report
        self._num_done, self._num_all = 0, 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._num_all += 1
        future = self._pool.submit(fn, *args, **kwargs)
        future.add_done_callback(self._count)
        return future

    def _count(self, _: Future[Any]) -> None:
        self._num_done += 1
        if self._report is not None:
            self._report(self._num_done, self._num_all)
