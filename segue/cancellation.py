"""Protects clean-up that a cancelled task must complete."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")


async def uninterrupted(work: Awaitable[Result]) -> Result:
    """Returns what `work` returns. A cancellation meanwhile is raised after `work` is done."""
    future = asyncio.ensure_future(work)
    cancellation: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError as error:
            cancellation = error
    result = future.result()
    if cancellation is not None:
        raise cancellation
    return result
