"""A router in a process of its own, which can be killed and started again on its port, and workers
in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from decode_worker.__main__ import running as running_decode
from decode_worker.worker import DecodeWorker
from kv_transfer.transport.loopback import LoopbackNetwork
from prefill_worker.__main__ import running as running_prefill
from prefill_worker.worker import PrefillWorker
from segue.api.errors import Unavailable
from segue.launch.config import Config
from segue.sdk.client import Client
from segue.worker.process.options import WorkerOptions
from tests.cluster.conftest import ENGINE
from tests.cluster.waiting import wait_until_ready


@dataclass
class RouterProcess:
    address: str
    model: Path
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        host, _, port = self.address.rpartition(":")
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "router", "--model", str(self.model)),
                    *("--host", host, "--port", port),
                ],
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def kill_and_restart(self) -> None:
        self.kill()
        self.start()


@dataclass(frozen=True, slots=True)
class SplitCluster:
    router: RouterProcess
    client: Client
    prefill: PrefillWorker
    decode: DecodeWorker

    def check_invariants(self) -> None:
        for worker in (self.prefill, self.decode):
            worker.check_invariants()
            worker.strays().require_none()


async def wait_until_there(client: Client) -> None:
    """Waits for the router's start, and then for its workers."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(Unavailable):
                return await wait_until_ready(client, 2)
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def split_cluster(model: Path, folder: Path) -> AsyncIterator[SplitCluster]:
    """`folder` is for the router's log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    router = RouterProcess(address, model, folder / "router.log")
    config, open_transport = Config(engine=ENGINE), LoopbackNetwork().open

    def options(name: str) -> WorkerOptions:
        return WorkerOptions(worker_id=name, model=str(model), router_address=address)

    async with contextlib.AsyncExitStack() as stack:
        stack.callback(router.kill)
        router.start()
        prefill = await stack.enter_async_context(
            running_prefill(
                options("prefill-0"),
                engine=config.engine,
                prefill=config.prefill,
                transfer=config.transfer,
                checkpoint=config.checkpoint,
                open_transport=open_transport,
            )
        )
        decode = await stack.enter_async_context(
            running_decode(
                options("decode-0"),
                engine=config.engine,
                decode=config.decode,
                transfer=config.transfer,
                checkpoint=config.checkpoint,
                open_transport=open_transport,
            )
        )
        client = await stack.enter_async_context(Client(address))
        await wait_until_there(client)
        yield SplitCluster(router, client, prefill.worker, decode.worker)
