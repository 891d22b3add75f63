"""Whole clusters: one with real Ray per session, and one of plain objects in this process."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Iterator
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from decode_worker.__main__ import running as running_decode
from decode_worker.worker import DecodeWorker
from kv_transfer.transport.loopback import LoopbackNetwork
from kv_transfer.transport.transport import OpenTransport
from prefill_worker.__main__ import running as running_prefill
from prefill_worker.worker import PrefillWorker
from router.__main__ import running as running_router
from router.config import RouterConfig
from router.router import Router
from segue.demo import checkpoint_dir
from segue.engine.config import EngineConfig
from segue.gateway.config import GatewayConfig
from segue.launch.cluster import Cluster, running_cluster
from segue.launch.config import ClusterConfig, Config
from segue.sdk.client import Client
from segue.text.chat import ChatTemplate
from segue.text.template.program import TemplateProgram
from segue.text.tokens.piece_cache import PieceCache
from segue.text.tokens.tokenizer import Tokenizer
from segue.worker.process.options import WorkerOptions
from tests.cluster.waiting import wait_until_ready

# A worker's status is as old as its last heartbeat, and tests wait for what it reports.
_HEARTBEAT_S = 0.1

# Small, so that turns wait for memory in tests. One thread each, since all share two cores.
ENGINE = EngineConfig(max_running=8, cache_bytes=32 << 20, num_threads=1)


@pytest.fixture(scope="session")
def demo() -> Path:
    return checkpoint_dir()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    """Two prefill and two decode workers on the demo model, started as `segue serve` does."""
    config = Config(
        cluster=ClusterConfig(prefill=2, decode=2),
        gateway=GatewayConfig(port=0),
        router=RouterConfig(port=0, drain_s=5.0),
        engine=ENGINE,
    )
    with running_cluster(config, lambda stage: None) as cluster:
        yield cluster


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """The real objects with real gRPC between them, but in one process and without Ray. Bytes move
    over the loopback transport.
    """

    client: Client
    router: Router
    prefill: list[PrefillWorker]
    decode: list[DecodeWorker]

    def check_invariants(self) -> None:
        """Holds at any moment: the accounts add up, and every unit has a living owner."""
        for worker in (*self.prefill, *self.decode):
            worker.check_invariants()
            worker.strays().require_none()


def num_evicted(*workers: PrefillWorker | DecodeWorker) -> int:
    """Evicted pages and states."""
    caches = [worker._memory.cache for worker in workers]
    return sum(cache.num_evicted_pages + cache.num_evicted_slots for cache in caches)


_compile = ChatTemplate._compile
_compiled: dict[object, TemplateProgram] = {}


def _compile_once(template: ChatTemplate, source: str) -> TemplateProgram:
    """Compiling a template takes half of a cluster's start, and gives the same for each."""
    named_tokens = tuple(template.source.named_tokens.items())
    key = source, named_tokens, *template.marks.token_of.items(), template.marks.answer_tokens
    if key not in _compiled:
        _compiled[key] = _compile(template, source)
    return _compiled[key]


_read = Tokenizer.from_folder


def _read_once(folder: Path) -> Tokenizer:
    """A cluster has three processes, which each read the vocabulary: the real one takes a second.
    A copy has its own cache and limit.
    """
    path = (folder / "tokenizer.json").resolve()
    if not path.is_file():
        return _read(folder)
    tokenizer = copy(_tokenizer_in(path.parent, path.stat().st_mtime_ns))
    tokenizer._cache, tokenizer._bytes = PieceCache(), {}
    return tokenizer


@functools.lru_cache(maxsize=4)
def _tokenizer_in(folder: Path, _: int) -> Tokenizer:
    tokenizer = _read(folder)
    # Computed once, and copied.
    assert tokenizer.num_ids
    assert tokenizer.longest_token
    return tokenizer


@contextlib.contextmanager
def _quick_start(heartbeat_s: float) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segue.worker.process.serving._HEARTBEAT_S", heartbeat_s)
        patch.setattr(ChatTemplate, "_compile", _compile_once)
        patch.setattr(Tokenizer, "from_folder", _read_once)
        yield


@contextlib.asynccontextmanager
async def local_cluster(
    model: Path | str,
    config: Config | None = None,
    *,
    prefill: int = 1,
    decode: int = 1,
    decode_engine: EngineConfig | None = None,
    open_transport: OpenTransport | None = None,
    api_key: str | None = None,
    heartbeat_s: float = _HEARTBEAT_S,
) -> AsyncIterator[LocalCluster]:
    """`decode_engine`: set if the decode workers' engine differs from the prefill workers'.
    `open_transport`: loopback if not given. `api_key`: the client's.
    """
    open_transport = open_transport or LoopbackNetwork().open
    config = config or Config(engine=ENGINE)
    async with contextlib.AsyncExitStack() as stack:
        with _quick_start(heartbeat_s):
            router_config = replace(config.router, port=0, drain_s=1.0)
            router = await stack.enter_async_context(
                running_router(router_config, str(model), checkpoint=config.checkpoint)
            )

            def options(name: str) -> WorkerOptions:
                return WorkerOptions(
                    worker_id=name, model=str(model), router_address=router.address
                )

            prefills = [
                await stack.enter_async_context(
                    running_prefill(
                        options(f"prefill-{index}"),
                        engine=config.engine,
                        prefill=config.prefill,
                        transfer=config.transfer,
                        checkpoint=config.checkpoint,
                        open_transport=open_transport,
                    )
                )
                for index in range(prefill)
            ]
            decodes = [
                await stack.enter_async_context(
                    running_decode(
                        options(f"decode-{index}"),
                        engine=decode_engine or config.engine,
                        decode=config.decode,
                        transfer=config.transfer,
                        checkpoint=config.checkpoint,
                        open_transport=open_transport,
                    )
                )
                for index in range(decode)
            ]
        client = await stack.enter_async_context(Client(router.address, api_key=api_key))
        await wait_until_ready(client, prefill + decode)
        cluster = LocalCluster(
            client=client,
            router=router.router,
            prefill=[running.worker for running in prefills],
            decode=[running.worker for running in decodes],
        )
        yield cluster
        cluster.check_invariants()
