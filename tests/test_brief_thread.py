from __future__ import annotations

import threading

import pytest

from segue.process.cores import in_brief_thread


async def test_the_thread_has_ended_with_the_call() -> None:
    thread = await in_brief_thread(threading.current_thread)
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


async def test_it_has_ended_after_an_error_too() -> None:
    threads = []

    def fail() -> None:
        threads.append(threading.current_thread())
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        await in_brief_thread(fail)
    assert not threads[0].is_alive()
