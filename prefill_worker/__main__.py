"""Starts a prefill worker: `python -m prefill_worker --id ID --model MODEL --router HOST:PORT`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from kv_transfer.config import TransferConfig
from kv_transfer.ranks.starting import HERE, loading
from kv_transfer.transport.mooncake import open_mooncake
from kv_transfer.transport.transport import OpenTransport
from kv_transfer.worker import worker_resources
from prefill_worker.config import PrefillConfig
from prefill_worker.metrics import PrefillMetrics
from prefill_worker.worker import PrefillWorker
from segue.api.types import Role
from segue.cache.prefix.eviction_cost import cost_to_prefill
from segue.config import section
from segue.engine.config import EngineConfig
from segue.model.checkpoint.source import AS_PUBLISHED, CheckpointConfig
from segue.process.tracing.setup import tracer_of
from segue.text.tokens.tokenizer import Tokenizer
from segue.worker.process.command import run_worker
from segue.worker.process.options import WorkerOptions
from segue.worker.process.serving import Presence, RunningWorker, serving_worker
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
            engine=engine,
            transfer=transfer,
            # Only proportions matter within one worker.
            eviction_cost=lambda layout: cost_to_prefill(
                layout, lambda num_tokens: num_tokens * 1e-3
            ),
            open_transport=open_transport,
            pass_tokens=prefill.chunk_tokens,
        ) as resources,
    ):
        has_text = not checkpoint.skip_tokenizer
        tokenizer = Tokenizer.from_folder(loaded.folder) if has_text else None
        made: list[PrefillWorker] = []

        def worker_as(presence: Presence) -> PrefillWorker:
            presence.operators = resources.runner.operators
            presence.cores, presence.num_threads = loaded.engine.cores, loaded.engine.num_threads
            made.append(
                PrefillWorker(
                    presence, resources, prefill, metrics, tokenizer=tokenizer, tracer=tracer
                )
            )
            return made[0]

        async def warm_up() -> None:
            await made[0].warm_up(resources.runner, prefill.chunk_tokens)

        with contextlib.closing(tracer_of("prefill", options.worker_id)) as tracer:
            async with serving_worker(
                identity,
                metrics.registry,
                worker_as,
                options=options,
                drain_s=prefill.drain_s,
                warm_up=warm_up,
            ) as worker:
                yield worker


def _from_sections(
    options: WorkerOptions, sections: Mapping[str, Any]
) -> contextlib.AbstractAsyncContextManager[RunningWorker]:
    return running(
        options,
        engine=section(sections, "engine", EngineConfig),
        prefill=section(sections, "prefill", PrefillConfig),
        transfer=section(sections, "transfer", TransferConfig),
        checkpoint=section(sections, "checkpoint", CheckpointConfig),
    )


def main() -> None:
    run_worker(Role.PREFILL, _from_sections)


if __name__ == "__main__":
    main()
