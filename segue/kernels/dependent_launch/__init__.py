"""Programmatic dependent launch: a kernel starts while the one before it still runs.

From Hopper on, a launch with an attribute lets the kernel's programs start as soon as all programs
of the stream's previous kernel have started and signalled. They must then wait before they touch
what other kernels write. Two rules make that right, whatever the kernels around it are:

- every program of such a kernel waits on every path, before it reads anything that a kernel of a
  pass writes, and before it writes anything;
- before that it may read only weights, which no kernel writes once the model is loaded.

`segue.kernels.aot` checks both in the compiled kernels, for each that takes `IS_DEPENDENT`
(`ptx`). Why they suffice is in docs/kernels.md. Interpreted kernels, and those on older GPUs, do
none of it.
"""

from segue.kernels.dependent_launch.triton import (
    ARGUMENT,
    off,
    options,
    prefetch,
    signal,
    start,
    wait,
)

__all__ = ["ARGUMENT", "off", "options", "prefetch", "signal", "start", "wait"]
