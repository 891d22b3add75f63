"""A worker's resources before it serves: its model, its memory and its transport endpoint."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from kv_transfer.config import TransferConfig
from kv_transfer.layout import RankMemory
from kv_transfer.transport.transport import Endpoint, OpenTransport, open_endpoint
from segue.cache.host.tier import CopyUnits, Tiers
from segue.cache.layout import CacheLayout, Unit
from segue.cache.memory import Memory
from segue.cache.prefix.eviction_cost import EvictionCost
from segue.cache.tensors import CacheTensors, copy_units
from segue.engine.config import EngineConfig, host_pool_sizes
from segue.engine.runner import ModelRunner
from segue.model.checkpoint.source import CheckpointConfig
from segue.parallel.followers import Followers
from segue.process.cores import in_brief_thread
from segue.text.tokens.tokenizer import Tokenizer
from segue.worker.load import LoadedModel
from segue.worker.membership.identity import Identity
from segue.worker.process.options import WorkerOptions
from segue.worker.ranks.starting import host_tensors
from segue.worker.watchdog import Patience

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerResources:
    runner: ModelRunner
    endpoint: Endpoint
    tiers: Tiers
    engine: EngineConfig
    pass_tokens: int
    """The most in one pass."""
    tokenizer: Tokenizer | None = None
    verify_checksums: bool = True
    patience: Patience = field(default_factory=Patience)


@contextlib.asynccontextmanager
async def worker_resources(
    loaded: LoadedModel,
    identity: Identity,
    options: WorkerOptions,
    *,
    transfer: TransferConfig,
    checkpoint: CheckpointConfig,
    eviction_cost: Callable[[CacheLayout], EvictionCost],
    open_transport: OpenTransport,
    pass_tokens: int,
) -> AsyncIterator[WorkerResources]:
    """Allocates the host tier and registers the cache with the transport, until the block ends.
    Raises InvalidConfig.
    """
    runner = loaded.runner
    worth = eviction_cost(runner.layout)
    tiers = await in_brief_thread(lambda: _tiers_of(loaded, worth=worth, clock=time.monotonic))
    device = runner.tensors.device.type
    host, followers = options.hosts.announce, loaded.followers
    memories: Sequence[RankMemory] = ()
    if followers is not None:
        # The followers open their memory to other workers.
        memories = await in_brief_thread(lambda: followers.ask_all("open", transfer, host))
    transport = open_transport(transfer, host=host, device=device)
    with open_endpoint(
        transport,
        runner.tensors,
        worker_id=identity.worker_id,
        epoch=identity.epoch,
        security=options.security,
        layout=runner.layout,
        followers=followers,
        memories=memories,
    ) as endpoint:
        if followers is not None:
            followers.tell("serve", endpoint.memory_map, transfer.verify_checksums)
        yield WorkerResources(
            runner=runner,
            endpoint=endpoint,
            tiers=tiers,
            engine=loaded.engine,
            pass_tokens=pass_tokens,
            tokenizer=None if checkpoint.skip_tokenizer else Tokenizer.from_folder(loaded.folder),
            verify_checksums=transfer.verify_checksums,
            patience=_patience(loaded, pass_tokens, transfer),
        )


def _patience(loaded: LoadedModel, pass_tokens: int, transfer: TransferConfig) -> Patience:
    runner, config = loaded.runner, loaded.runner.config
    num_tokens = loaded.sizes.num_pages * runner.layout.page_tokens
    return Patience.of(
        num_params=runner.num_params,
        num_layers=config.num_layers,
        width=config.hidden_size,
        vocab_size=config.vocab_size,
        max_context=min(config.max_position_embeddings, num_tokens),
        pass_tokens=pass_tokens,
        device=runner.tensors.device.type,
        write_s=transfer.transfer_timeout_s,
    )


def _tiers_of(loaded: LoadedModel, *, worth: EvictionCost, clock: Callable[[], float]) -> Tiers:
    """All units are free. Raises InvalidConfig if the host tier is too small to be useful."""
    layout, device = loaded.runner.layout, loaded.runner.tensors
    sizes = host_pool_sizes(device.layout, loaded.engine)
    if loaded.engine.host_cache_bytes:
        logger.info(
            "host cache allocated, sized by [engine] host_cache_bytes",
            extra={"num_pages": sizes.num_pages, "num_slots": sizes.num_slots},
        )
    host = host_tensors(loaded.runner, loaded.engine)

    def memory(num_pages: int, num_slots: int) -> Memory:
        return Memory.of(
            num_pages=num_pages,
            num_slots=num_slots,
            page_tokens=layout.page_tokens,
            worth=worth,
            clock=clock,
        )

    return Tiers(
        device=memory(loaded.sizes.num_pages, loaded.sizes.num_slots),
        host=memory(sizes.num_pages, sizes.num_slots),
        layout=layout,
        down=_copying(device, host, loaded.followers, is_down=True),
        up=_copying(host, device, loaded.followers, is_down=False),
    )


def _copying(
    source: CacheTensors, target: CacheTensors, followers: Followers | None, *, is_down: bool
) -> CopyUnits:
    """Copies units on every rank."""
    own = functools.partial(copy_units, source, target)
    if followers is None:
        return own

    def copy(unit: Unit, from_units: Sequence[int], to_units: Sequence[int]) -> None:
        answers = followers.ask("copy", is_down, unit, tuple(from_units), tuple(to_units))
        own(unit, from_units, to_units)
        for answer in answers:
            answer.result()

    return copy
