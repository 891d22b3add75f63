"""What the status page shows, once a second: one look at the router for all viewers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Protocol

from pydantic_core import to_json

from segue.api.cluster.explanation import RecentTurn
from segue.api.cluster.status import ClusterStatus
from segue.api.errors import Overloaded, SegueError, Unauthenticated

logger = logging.getLogger(__name__)

EVERY_S = 1.0
MAX_VIEWERS = 32
"""Each gets some tens of kilobytes a second."""
_MAX_TURNS = 16
# A router that takes longer is shown as away.
_TIMEOUT_S = 2.5
_RETRY_AFTER_S = 10.0


class RouterLooks(Protocol):
    """What this asks of the router; `segue.sdk.client.Client` documents each call."""

    async def status(self, *, timeout_s: float) -> ClusterStatus: ...

    async def recent_turns(self, max_turns: int, *, timeout_s: float) -> list[RecentTurn]: ...


@dataclass(slots=True, eq=False)
class _Viewer:
    key: str
    client: RouterLooks
    document: bytes = b""
    """JSON. A viewer that reads slowly gets the latest only."""
    error: Exception | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def show(self, document: bytes) -> None:
        self.document = document
        self.news.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.news.set()


class Feed:
    """One event loop owns it. Nothing is asked of the router without a viewer."""

    def __init__(self, *, every_s: float = EVERY_S, max_viewers: int = MAX_VIEWERS) -> None:
        self._every_s = every_s
        self._max_viewers = max_viewers
        self._viewers: set[_Viewer] = set()
        self._looking: asyncio.Task[None] | None = None
        self._is_closed = False
        self._seen_at = 0.0

    @property
    def num_viewers(self) -> int:
        return len(self._viewers)

    async def documents(self, key: str, client: RouterLooks) -> AsyncGenerator[bytes, None]:
        """JSON documents until the feed closes. `client`: the key's. Raises Overloaded if there
        are too many viewers, and Unauthenticated once the router no longer knows the key.
        """
        if len(self._viewers) >= self._max_viewers:
            raise Overloaded.after(
                f"the status page has {self._max_viewers} viewers, which is the limit: close one",
                retry_after_s=_RETRY_AFTER_S,
            )
        viewer = _Viewer(key, client)
        self._viewers.add(viewer)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_on())
        try:
            while not self._is_closed:
                await viewer.news.wait()
                viewer.news.clear()
                if viewer.error is not None:
                    raise viewer.error
                if not self._is_closed:
                    yield viewer.document
        finally:
            self._viewers.discard(viewer)
            if not self._viewers:
                self._stop()

    def close(self) -> None:
        """Ends all streams: they would keep a server from ending."""
        self._is_closed = True
        for viewer in self._viewers:
            viewer.news.set()
        self._stop()

    def _stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _look_on(self) -> None:
        loop = asyncio.get_running_loop()
        self._seen_at = loop.time()
        while True:
            started_at = loop.time()
            try:
                await self._look(loop)
            except Exception as error:
                logger.exception("the status page's look at the router failed")
                for viewer in self._viewers:
                    viewer.fail(error)
            await asyncio.sleep(max(started_at + self._every_s - loop.time(), 0.0))

    async def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        clients = {viewer.key: viewer.client for viewer in self._viewers}
        cluster, turns = await asyncio.gather(
            _status(clients.values()), asyncio.gather(*map(_turns, clients.values()))
        )
        of_key = dict(zip(clients, turns, strict=True))
        if isinstance(cluster, ClusterStatus):
            self._seen_at = loop.time()
        documents = _documents(cluster, of_key, away_s=loop.time() - self._seen_at)
        for viewer in [one for one in self._viewers if one.key in of_key]:
            found = of_key[viewer.key]
            if isinstance(found, Unauthenticated):
                viewer.fail(found)
            else:
                viewer.show(documents[viewer.key])


async def _status(clients: Iterable[RouterLooks]) -> ClusterStatus | SegueError:
    """It is the same for all keys, so the first one that the router knows will do."""
    refused: SegueError | None = None
    for client in clients:
        try:
            return await client.status(timeout_s=_TIMEOUT_S)
        except Unauthenticated as error:
            refused = error
        except SegueError as error:
            return error
    assert refused is not None, "a look has viewers"
    return refused


async def _turns(client: RouterLooks) -> list[RecentTurn] | SegueError:
    try:
        return await client.recent_turns(_MAX_TURNS, timeout_s=_TIMEOUT_S)
    except SegueError as error:
        return error


def _documents(
    cluster: ClusterStatus | SegueError,
    turns: Mapping[str, list[RecentTurn] | SegueError],
    *,
    away_s: float,
) -> dict[str, bytes]:
    """What each key's viewers get. The cluster is encoded once for all."""
    if isinstance(cluster, SegueError):
        away = to_json({"away": str(cluster), "away_s": away_s})
        return dict.fromkeys(turns, away)
    shared = to_json(asdict(cluster))
    return {
        key: b'{"cluster":' + shared + b"," + _turns_members(found) + b"}"
        for key, found in turns.items()
    }


def _turns_members(found: list[RecentTurn] | SegueError) -> bytes:
    if isinstance(found, SegueError):
        return b'"turns":[],"turns_error":' + to_json(str(found))
    return b'"turns":' + to_json([asdict(turn) for turn in found])
