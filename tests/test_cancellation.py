from __future__ import annotations

import asyncio

import pytest

from segue.api.errors import Cancelled, Unavailable
from segue.process.cancellation import Interruptible


class Work:
    """Waits until it is released, and cleans up if it is cancelled."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.cleaned_up = False
        self.interruptible = Interruptible()
        self.task = asyncio.ensure_future(self.interruptible.run(self._wait()))

    async def _wait(self) -> int:
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cleaned_up = True
            raise
        return 7


async def started() -> Work:
    work = Work()
    await asyncio.sleep(0)
    return work


async def test_undisturbed_work_returns() -> None:
    work = await started()
    assert not work.interruptible.over.is_set()
    work.may_end.set()

    assert await work.task == 7
    assert work.interruptible.over.is_set()


async def test_an_interruption_is_raised_after_the_clean_up() -> None:
    work = await started()
    work.interruptible.interrupt(Unavailable("first"))
    work.interruptible.interrupt(Cancelled("second"))

    with pytest.raises(Unavailable, match="first"):
        await work.task
    assert work.cleaned_up
    assert work.interruptible.over.is_set()
    assert work.task.cancelling() == 0


async def test_a_caller_that_is_cancelled_is_cancelled() -> None:
    work = await started()
    work.task.cancel()
    await asyncio.wait([work.task])

    assert work.task.cancelled()
    assert work.interruptible.over.is_set()


@pytest.mark.parametrize("caller_first", [True, False])
async def test_a_caller_cancelled_during_an_interruption_is_cancelled(caller_first: bool) -> None:
    work = await started()
    if caller_first:
        work.task.cancel()
    work.interruptible.interrupt(Unavailable("the worker stops"))
    if not caller_first:
        work.task.cancel()
    await asyncio.wait([work.task])

    assert work.task.cancelled()


async def test_finished_work_cannot_be_interrupted() -> None:
    work = await started()
    work.may_end.set()
    await work.task

    work.interruptible.interrupt(Unavailable("too late"))

    assert await work.task == 7
