"""Starts a decode worker: `python -m decode_worker --id ID --model MODEL --router HOST:PORT`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from decode_worker.config import DecodeConfig
from decode_worker.metrics import DecodeMetrics
from decode_worker.worker import DecodeWorker
from kv_transfer.config import TransferConfig
from kv_transfer.ranks.starting import HERE, loading
from kv_transfer.resources import worker_resources
from kv_transfer.transport.mooncake import open_mooncake
from kv_transfer.transport.transport import OpenTransport
from segue.api.types import Role
from segue.cache.prefix.eviction_cost import cost_to_decode
from segue.engine.config import EngineConfig
from segue.engine.device.launcher import Launcher
from segue.model.checkpoint.source import AS_PUBLISHED, CheckpointConfig
from segue.process.tracing.setup import tracer_of
from segue.worker.load import LoadedModel
from segue.worker.process.command import run_worker
from segue.worker.process.options import WorkerOptions
from segue.worker.process.serving import RunningWorker, serving_worker
from segue.worker.ranks.leading import LeadingLauncher
from segue.worker.ranks.starting import FollowersStart

logger = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def running(
    options: WorkerOptions,
    *,
    engine: EngineConfig,
    decode: DecodeConfig,
    transfer: TransferConfig,
    checkpoint: CheckpointConfig = AS_PUBLISHED,
    open_transport: OpenTransport = open_mooncake,
    followers: FollowersStart = HERE,
) -> AsyncIterator[RunningWorker]:
    """A worker that serves until the block ends. Raises InvalidCheckpoint and InvalidConfig."""
    identity = await options.take_identity(Role.DECODE)
    engine = engine.of_role(decode.tensor_parallel, decode.cores)
    launches_ahead = steps_on_device(engine)
    metrics = DecodeMetrics()
    async with contextlib.AsyncExitStack() as stack:
        loaded = await stack.enter_async_context(
            loading(
                options,
                engine,
                max_drafts=decode.max_drafts,
                with_scratch=launches_ahead,
                is_for_steps=True,
                followers=followers,
            )
        )
        decode.check_model(has_mtp=loaded.runner.has_mtp)
        decode.check_device(launches_ahead=launches_ahead)
        if decode.simulates_acceptance:
            logger.warning(
                "drafts are accepted at random: answers are NOT the model's, use them only for "
                "timing",
                extra={"simulate_acceptance": decode.simulate_acceptance},
            )
        launcher = None
        if launches_ahead:
            launcher = await asyncio.to_thread(launcher_of, loaded, decode)
        resources = await stack.enter_async_context(
            worker_resources(
                loaded,
                identity,
                options,
                transfer=transfer,
                checkpoint=checkpoint,
                eviction_cost=cost_to_decode,
                open_transport=open_transport,
                pass_tokens=decode.max_pass_tokens,
            )
        )
        with contextlib.closing(tracer_of("decode", options.worker_id)) as tracer:
            async with serving_worker(
                identity,
                metrics.registry,
                lambda presence: DecodeWorker(
                    presence, resources, decode, metrics, launcher=launcher, tracer=tracer
                ),
                options=options,
                drain_s=decode.drain_s,
            ) as worker:
                yield worker


def steps_on_device(engine: EngineConfig) -> bool:
    """Whether steps are launched before earlier results are read. On a CPU the host computes
    them."""
    return engine.device != "cpu"


def launcher_of(loaded: LoadedModel, decode: DecodeConfig) -> Launcher:
    runner, max_running = loaded.runner, loaded.engine.max_running
    sizes = {
        "num_rows": max_running,
        "max_batch": min(decode.max_batch, max_running),
        "max_drafts": decode.max_drafts if runner.has_mtp else 0,
    }
    if loaded.followers is None:
        return Launcher.of(runner, **sizes)
    return LeadingLauncher.of_all(runner, loaded.followers, **sizes)


def main() -> None:
    run_worker(
        Role.DECODE,
        running,
        engine=EngineConfig,
        decode=DecodeConfig,
        transfer=TransferConfig,
        checkpoint=CheckpointConfig,
    )


if __name__ == "__main__":
    main()
