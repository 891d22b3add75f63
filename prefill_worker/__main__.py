"""Starts a prefill worker: `python -m prefill_worker --id ID --model MODEL --router HOST:PORT`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from kv_transfer.config import TransferConfig
from kv_transfer.transport.mooncake import open_mooncake
from kv_transfer.transport.transport import OpenTransport, open_endpoint
from prefill_worker.config import PrefillConfig
from prefill_worker.metrics import PrefillMetrics
from prefill_worker.worker import PrefillWorker
from segue.api.types import Role
from segue.cache.layout import CacheLayout
from segue.cache.prefix.eviction_cost import EvictionCost, cost_to_prefill
from segue.config import section
from segue.engine.config import EngineConfig
from segue.worker.load import load_runner
from segue.worker.memory import tiers_of
from segue.worker.process import (
    Identity,
    Presence,
    RunningWorker,
    WorkerOptions,
    run_worker,
    serving_worker,
)


@contextlib.asynccontextmanager
async def running(
    options: WorkerOptions,
    *,
    engine: EngineConfig,
    prefill: PrefillConfig,
    transfer: TransferConfig,
    open_transport: OpenTransport = open_mooncake,
) -> AsyncIterator[RunningWorker]:
    """A worker that serves until the block ends. Raises InvalidCheckpoint and InvalidConfig."""
    identity = Identity.take(options.worker_id, Role.PREFILL)
    loaded = await asyncio.to_thread(load_runner, options.model, engine)
    tiers = await asyncio.to_thread(
        tiers_of, loaded, engine, worth=_worth(loaded.runner.layout), clock=time.monotonic
    )
    metrics = PrefillMetrics()
    tensors = loaded.runner.tensors
    transport = open_transport(transfer, host=options.hosts.announce, device=tensors.device.type)
    with open_endpoint(
        transport, tensors, worker_id=identity.worker_id, epoch=identity.epoch
    ) as endpoint:

        def worker_as(presence: Presence) -> PrefillWorker:
            return PrefillWorker(
                presence=presence,
                runner=loaded.runner,
                endpoint=endpoint,
                tiers=tiers,
                config=prefill,
                metrics=metrics,
                max_running=loaded.engine.max_running,
                verify_checksums=transfer.verify_checksums,
            )

        async with serving_worker(
            identity,
            metrics.registry,
            worker_as,
            options=options,
        ) as worker:
            yield worker


def _worth(layout: CacheLayout) -> EvictionCost:
    # Only proportions matter within one worker.
    return cost_to_prefill(layout, lambda num_tokens: num_tokens * 1e-3)


def _from_sections(
    options: WorkerOptions, sections: Mapping[str, Any]
) -> contextlib.AbstractAsyncContextManager[RunningWorker]:
    return running(
        options,
        engine=section(sections, "engine", EngineConfig),
        prefill=section(sections, "prefill", PrefillConfig),
        transfer=section(sections, "transfer", TransferConfig),
    )


def main() -> None:
    run_worker(Role.PREFILL, _from_sections)


if __name__ == "__main__":
    main()
