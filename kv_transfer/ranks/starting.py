"""Loads a worker's model, with its other ranks if it has any."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from kv_transfer.config import TransferConfig
from kv_transfer.layout import RankMemory
from segue.engine.config import EngineConfig
from segue.parallel.followers import Followers
from segue.process.brief_thread import in_brief_thread
from segue.worker.load import FollowerStart, LoadedModel, load_runner
from segue.worker.process import WorkerOptions, leave_process

_FOLLOWER = "kv_transfer.ranks.follower"
"""The module that other ranks run."""


@contextlib.asynccontextmanager
async def loading(
    options: WorkerOptions,
    engine: EngineConfig,
    *,
    max_drafts: int = 0,
    with_scratch: bool = False,
    niceness: int = 0,
) -> AsyncIterator[LoadedModel]:
    """The model, loaded in a thread, and its other ranks, until the block ends. `niceness`: of the
    engine's thread. Raises InvalidCheckpoint and InvalidConfig."""
    start = FollowerStart(module=_FOLLOWER, niceness=niceness, on_lost=leave_process)
    loaded = await in_brief_thread(
        lambda: load_runner(
            options.model,
            engine,
            max_drafts=max_drafts,
            with_scratch=with_scratch,
            start=start,
        )
    )
    with contextlib.closing(loaded.runner):
        yield loaded


def opened(
    followers: Followers | None, transfer: TransferConfig, host: str
) -> Sequence[RankMemory]:
    """Where the followers have their memory, which they open to other workers."""
    return followers.ask_all("open", transfer, host) if followers else ()
