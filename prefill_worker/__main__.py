"""Starts a prefill worker: `python -m prefill_worker --id ID --model MODEL --router HOST:PORT`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from kv_transfer.config import TransferConfig
from kv_transfer.ranks.starting import HERE, loading
from kv_transfer.resources import worker_resources
from kv_transfer.transport.mooncake import open_mooncake
from kv_transfer.transport.transport import OpenTransport
from prefill_worker.config import PrefillConfig
from prefill_worker.metrics import PrefillMetrics
from prefill_worker.worker import PrefillWorker
from segue.api.types import Role
from segue.cache.prefix.eviction_cost import cost_to_prefill
from segue.engine.config import EngineConfig
from segue.model.checkpoint.source import AS_PUBLISHED, CheckpointConfig
from segue.process.tracing.setup import tracer_of
from segue.worker.process.command import run_worker
from segue.worker.process.options import WorkerOptions
from segue.worker.process.serving import RunningWorker, serving_worker
from segue.worker.ranks.starting import FollowersStart


@contextlib.asynccontextmanager
async def running(
    options: WorkerOptions,
    *,
    engine: EngineConfig,
    prefill: PrefillConfig,
    transfer: TransferConfig,
    checkpoint: CheckpointConfig = AS_PUBLISHED,
    open_transport: OpenTransport = open_mooncake,
    followers: FollowersStart = HERE,
) -> AsyncIterator[RunningWorker]:
    """A worker that serves until the block ends. Raises InvalidCheckpoint and InvalidConfig."""
    identity = await options.take_identity(Role.PREFILL)
    engine = engine.of_role(prefill.tensor_parallel, prefill.cores)
    metrics = PrefillMetrics()
    async with (
        loading(options, engine, niceness=prefill.niceness, followers=followers) as loaded,
        worker_resources(
            loaded,
            identity,
            options,
            transfer=transfer,
            checkpoint=checkpoint,
            eviction_cost=cost_to_prefill,
            open_transport=open_transport,
            pass_tokens=prefill.chunk_tokens,
        ) as resources,
    ):
        with contextlib.closing(tracer_of("prefill", options.worker_id)) as tracer:
            async with serving_worker(
                identity,
                metrics.registry,
                lambda presence: PrefillWorker(
                    presence, resources, prefill, metrics, tracer=tracer
                ),
                options=options,
                drain_s=prefill.drain_s,
            ) as worker:
                yield worker


def main() -> None:
    run_worker(
        Role.PREFILL,
        running,
        engine=EngineConfig,
        prefill=PrefillConfig,
        transfer=TransferConfig,
        checkpoint=CheckpointConfig,
    )


if __name__ == "__main__":
    main()
