"""A worker's identity in one life: its id, and an epoch greater than those of its earlier lives.

The epoch comes from the clock, and is compared with the last one that the routers know: the clock
may have been set back between two lives. A router that has restarted knows no earlier life.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from segue.api.errors import DeadlineExceeded, SegueError, Unavailable
from segue.api.types import Epoch, Role, WorkerId
from segue.security.config import OPEN, Security
from segue.wire.membership_calls import last_epoch

logger = logging.getLogger(__name__)

# Two processes that start with the same id by mistake must not get the same epoch.
_MAX_STEP = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A worker's identity in this life. Its addresses are known once its server has a port."""

    worker_id: WorkerId
    role: Role
    epoch: Epoch


async def take_identity(
    worker_id: WorkerId,
    role: Role,
    routers: Sequence[str],
    *,
    security: Security = OPEN,
    clock_ns: Callable[[], int] = time.time_ns,
) -> Identity:
    """Starts a new life. Does not wait for a router that cannot be reached: if it knows a greater
    epoch, it refuses this one when the worker joins.
    """
    known = await asyncio.gather(*(_known_to(router, worker_id, security) for router in routers))
    now, latest = clock_ns(), max(known, default=0)
    if now <= latest:
        logger.warning(
            "the clock is behind the epoch of an earlier life; taking the next one",
            extra={"clock": now, "earlier": latest},
        )
    return Identity(
        worker_id=worker_id,
        role=role,
        epoch=next_epoch(now, latest, 1 + secrets.randbelow(_MAX_STEP)),
    )


def next_epoch(now_ns: int, latest: int, step: int) -> Epoch:
    """The time, or the latest epoch plus `step` (1 or more) if the clock was set back."""
    return Epoch(now_ns if now_ns > latest else latest + step)


async def _known_to(router: str, worker_id: WorkerId, security: Security) -> int:
    try:
        return await last_epoch(router, worker_id, security=security)
    except (Unavailable, DeadlineExceeded):
        return 0
    except SegueError as error:
        # It will refuse the worker for the same reason, with the same error.
        logger.warning("a router did not return the last epoch", extra={"error": str(error)})
        return 0
