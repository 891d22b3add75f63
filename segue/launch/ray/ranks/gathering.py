"""How a leader gets its followers from Ray: it calls their actors until all have connected.

After a death, all ranks of a worker restart, in any order. So a follower may still belong to an
earlier leader, or not run yet: it is then called again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.exceptions import RayError

from segue.launch.ray.calls import PendingCall
from segue.parallel.followers import Followers, Link, OnLost
from segue.parallel.network import Listener, MessageChannel
from segue.parallel.rank import RanksLost
from segue.process.telemetry import Clock
from segue.security.config import Security
from segue.wire.addresses import Hosts
from segue.worker.ranks.credentials import credentials_of
from segue.worker.ranks.starting import FollowersStart, RankSetup

logger = logging.getLogger(__name__)

GATHER_TIMEOUT_S = 120.0
"""A busy machine takes some ten seconds to start a process that imports torch."""
_LOOK_EVERY_S = 0.1
_ASK_AGAIN_S = 0.5


class RankCall(Protocol):
    """See `PendingCall`."""

    @property
    def is_over(self) -> bool: ...
    def result(self) -> Any: ...


class Connections(Protocol):
    """See `Listener`."""

    def next(self, timeout_s: float) -> tuple[int, MessageChannel] | None: ...


@dataclass(slots=True)
class _Attempt:
    call: RankCall
    at: float


def gathered(
    connections: Connections,
    ask: Callable[[int], RankCall],
    num_followers: int,
    *,
    timeout_s: float = GATHER_TIMEOUT_S,
    clock: Clock = time.monotonic,
) -> list[MessageChannel]:
    """The connections of ranks 1 to `num_followers`. `ask(rank)` calls its process, which connects;
    the call returns only if the process has ended. Raises RanksLost after the timeout."""
    ends_at = clock() + timeout_s
    asked = {rank: _Attempt(ask(rank), clock()) for rank in range(1, num_followers + 1)}
    came: dict[int, MessageChannel] = {}
    while missing := asked.keys() - came.keys():
        if (found := connections.next(_LOOK_EVERY_S)) is not None:
            rank, channel = found
            if rank in missing:
                came[rank] = channel
            else:
                channel.close()
            continue
        for rank in missing:
            asking = asked[rank]
            if asking.call.is_over and clock() > asking.at + _ASK_AGAIN_S:
                _log_end(rank, asking.call)
                asked[rank] = _Attempt(ask(rank), clock())
        if clock() > ends_at:
            for channel in came.values():
                channel.close()
            raise RanksLost(
                f"rank {', '.join(map(str, sorted(missing)))} did not connect in {timeout_s:g} s: "
                "look into its log, and whether its node reaches this one ([cluster] worker_host "
                '= "node" if there are several)'
            )
    return [came[rank] for rank in sorted(came)]


def _log_end(rank: int, call: RankCall) -> None:
    try:
        call.result()
    except RayError as error:
        logger.info("calling a rank again", extra={"rank": rank, "error": str(error)[:300]})


def followers_of(names: Sequence[str], hosts: Hosts, security: Security) -> FollowersStart:
    """`names`: of actors of `RankActor`, in rank order. `hosts`: of the leader."""

    def start(setups: Sequence[RankSetup], on_lost: OnLost) -> Followers:
        actors = [ray.get_actor(name) for name in names]
        with contextlib.closing(Listener(hosts.listen, credentials_of(security))) as listener:

            def ask(rank: int) -> PendingCall:
                return PendingCall(
                    actors[rank - 1].follow.remote(hosts.announce, listener.port, rank)
                )

            channels = gathered(listener, ask, len(actors))
        for channel, setup in zip(channels, setups, strict=True):
            with contextlib.suppress(OSError):
                # A process that has ended is detected below.
                channel.send(setup)
        return Followers([Link(*one) for one in zip(channels, names, strict=True)], on_lost)

    return FollowersStart(start=start, hosts=hosts)
