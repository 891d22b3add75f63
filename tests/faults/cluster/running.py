"""A cluster of processes for a block."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from segue.api.types import Role
from segue.demo import checkpoint_dir
from segue.sdk.client import Client
from tests.faults.cluster import nursery
from tests.faults.cluster.processes import GATEWAY, ROUTER, SIBLING, ProcessCluster

# Turns wait in the router, prompts take several passes, and a drain ends within a cell.
SETTINGS = """
[engine]
num_threads = 1
cache_bytes = 67108864
max_running = 4
[router]
max_turns = 6
drain_s = 5.0
[gateway]
drain_s = 5.0
[prefill]
chunk_tokens = 256
"""
_START_S = 90.0


@contextlib.asynccontextmanager
async def process_cluster(
    *, has_gateways: bool = True
) -> AsyncIterator[tuple[ProcessCluster, Client]]:
    """Two workers of each role. The client is connected to the router itself, past the proxy that
    faults break. Raises RuntimeError if the cluster does not become ready.
    """
    nursery.prepare()
    model = str(checkpoint_dir())
    with tempfile.TemporaryDirectory(prefix="segue-faults-") as name:
        folder = Path(name)
        (folder / "segue.toml").write_text(SETTINGS)
        cluster = ProcessCluster(folder)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(cluster.close)
            await cluster.add(ROUTER, "router.__main__", "--model", model)
            for name in (GATEWAY, SIBLING) if has_gateways else ():
                await cluster.add(name, "segue.gateway.__main__", "--router", cluster.address)
            for role in Role:
                for index in range(2):
                    own = ["--id", f"{role}-{index}", "--model", model]
                    await cluster.add(f"{role}-{index}", role, *own, "--router", cluster.address)
            cluster.supervise()
            client = await stack.enter_async_context(Client(cluster.direct_address))
            if not await cluster.wait_until_whole(client, _START_S):
                logs = "\n".join(one.log.read_text()[-2000:] for one in cluster.processes.values())
                raise RuntimeError(f"the cluster did not become ready:\n{logs}")
            yield cluster, client
