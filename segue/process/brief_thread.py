"""Work in a thread that ends with it, for what computes before an engine starts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


async def in_brief_thread(call: Callable[[], Result]) -> Result:
    """Runs `call` in a new thread, which has ended when this returns or raises.

    Every thread that computes has its own OpenMP threads, which exist as long as it does. If a
    process has more of them than cores, libgomp no longer lets any of them spin: each waits for
    its next part of a product by sleeping, and a core takes as long to wake up as a small product.
    The threads of `asyncio.to_thread` would stay.
    """
    with ThreadPoolExecutor(max_workers=1) as executor:
        return await asyncio.get_running_loop().run_in_executor(executor, call)
