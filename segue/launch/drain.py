"""The end of a cluster: running turns are finished first, unless somebody is in a hurry."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import ray
from ray.exceptions import RayError

from segue.client import Client
from segue.errors import SegueError

logger = logging.getLogger(__name__)

_ASK_TIMEOUT_S = 2.0
_LOOK_EVERY_S = 0.2


def draining_words(address: str, drain_s: float) -> str:
    """What is waited for, and how not to."""
    num_turns = asyncio.run(_num_turns(address))
    if num_turns == 0:
        return "draining: no turn is running"
    running = f"{num_turns or 'some'} turn{'' if num_turns == 1 else 's'} running"
    return f"draining: {running}, waiting {drain_s:g} s at most; Ctrl-C again stops now"


async def _num_turns(address: str) -> int | None:
    """None where the router does not say."""
    async with Client(address) as client:
        try:
            return (await client.status(timeout_s=_ASK_TIMEOUT_S)).router.running_turns
        except SegueError:
            return None


def stop_router(actor: Any, timeout_s: float, hurry: threading.Event) -> None:
    """Waits until its turns have ended, or until `hurry` is set."""
    stopping = actor.stop.remote()
    ends_at = time.monotonic() + timeout_s
    while not hurry.is_set():
        # In short waits: a signal is seen between them.
        ended, _ = ray.wait([stopping], timeout=_LOOK_EVERY_S)
        if ended:
            _read(stopping)
            return
        if time.monotonic() > ends_at:
            logger.warning("the router did not stop in %g s", timeout_s)
            return


def _read(stopping: Any) -> None:
    try:
        ray.get(stopping)
    except RayError as error:
        logger.warning("the router did not stop in order: %s", error)
