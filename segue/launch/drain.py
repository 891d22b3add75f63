"""Stops a cluster after its running turns, unless the user skips the wait."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from segue.api.cluster.status import ClusterStatus

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 10.0
_ASK_TIMEOUT_S = 2.0
_LOOK_EVERY_S = 0.2


def draining_words(routers: Sequence[Any], drain_s: float) -> str:
    """A line on the turns that the stop waits for, and how to skip the wait."""
    num_turns = _num_turns(routers)
    if num_turns == 0:
        return "draining: no turn is running"
    running = f"{num_turns or 'some'} turn{'' if num_turns == 1 else 's'} running"
    return f"draining: {running}, waiting {drain_s:g} s at most; Ctrl-C again stops now"


def _num_turns(routers: Sequence[Any]) -> int | None:
    """None if a router does not answer."""
    num_turns = 0
    for router in routers:
        try:
            status: ClusterStatus = ray.get(router.status.remote(), timeout=_ASK_TIMEOUT_S)
        except RayError:
            return None
        num_turns += status.router.running_turns
    return num_turns


def leave_in_order(
    routers: Sequence[Any],
    workers: Collection[Any],
    drain_s: float,
    hurry: threading.Event,
    *,
    gateways: Sequence[Any] = (),
) -> None:
    """Drains the turns, and with them the gateways' requests, then stops the workers. The routers
    stop last, so they see every worker leave. Waits for nothing once `hurry` is set.
    """
    draining = [router.drain.remote() for router in routers]
    draining += [gateway.stop.remote() for gateway in gateways]
    await_done(draining, drain_s + STOP_TIMEOUT_S, hurry)
    await_done([worker.stop.remote() for worker in workers], STOP_TIMEOUT_S, hurry)


def stop_routers(routers: Sequence[Any], drain_s: float, hurry: threading.Event) -> None:
    """Works for a cluster that was not ready yet, too."""
    await_done([router.stop.remote() for router in routers], drain_s + STOP_TIMEOUT_S, hurry)


def await_done(calls: list[Any], timeout_s: float, hurry: threading.Event) -> None:
    """Waits until all have ended, or `hurry` is set."""
    ends_at = time.monotonic() + timeout_s
    while not hurry.is_set():
        # Short waits, so that a signal is handled between them.
        ended, running = ray.wait(calls, num_returns=len(calls), timeout=_LOOK_EVERY_S)
        if not running:
            _read(ended)
            return
        if time.monotonic() > ends_at:
            logger.warning("a process did not stop within %g s", timeout_s)
            return


def _read(ended: list[Any]) -> None:
    try:
        ray.get(ended)
    except RayError as error:
        logger.warning("a process did not stop cleanly: %s", error)
