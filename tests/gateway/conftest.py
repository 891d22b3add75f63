"""A gateway before a real cluster on the demo model, with the SDKs that users have."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx2
import pytest_asyncio
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from segue.gateway.__main__ import running
from segue.gateway.config import GatewayConfig
from segue.gateway.metrics import GatewayMetrics
from tests.cluster.conftest import LocalCluster, local_cluster


@dataclass(frozen=True, slots=True)
class Live:
    cluster: LocalCluster
    openai: AsyncOpenAI
    anthropic: AsyncAnthropic
    http: httpx2.AsyncClient
    metrics: GatewayMetrics

    @property
    def url(self) -> str:
        return str(self.http.base_url)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def live() -> AsyncIterator[Live]:
    """One for all tests of a process. They run in its event loop."""
    async with (
        local_cluster("demo") as cluster,
        running(GatewayConfig(port=0), cluster.client.target) as gateway,
    ):
        url = f"http://{gateway.address}"
        async with (
            AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as openai,
            AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as anthropic,
            httpx2.AsyncClient(base_url=url, timeout=60.0) as http,
        ):
            yield Live(cluster, openai, anthropic, http, gateway.metrics)
