"""Probes, reflection and metrics as standard tools see them."""

from __future__ import annotations

import asyncio
import os
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from scripts.dashboards.prometheus import query, running_prometheus, wait_for
from segue.api.cluster.status import ClusterStatus
from segue.api.types import TextInput
from segue.launch.cluster import Cluster
from segue.process.cores import listed
from segue.sdk.client import Client
from segue.wire.channel import channel_to


async def status_of(cluster: Cluster) -> ClusterStatus:
    async with Client(cluster.address) as client:
        await client.generate(TextInput("Hello"))
        return await client.status()


def addresses(status: ClusterStatus) -> list[str]:
    return [status.router.address, *(worker.address for worker in status.workers)]


async def test_the_status_says_where_each_worker_computes(ray_cluster: Cluster) -> None:
    status = await status_of(ray_cluster)

    allowed = listed(os.sched_getaffinity(0))
    assert {(worker.cores, worker.num_threads) for worker in status.workers} == {(allowed, 1)}


async def test_every_server_answers_the_standard_health_check(ray_cluster: Cluster) -> None:
    for address in addresses(await status_of(ray_cluster)):
        async with channel_to(address) as channel:
            reply = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=5
            )

        assert reply.status == health_pb2.HealthCheckResponse.SERVING, address


async def test_every_server_lists_its_services(ray_cluster: Cluster) -> None:
    listed = set()
    for address in addresses(await status_of(ray_cluster)):
        async with channel_to(address) as channel:
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                iter([request]), timeout=5
            )
            async for reply in call:
                listed |= {service.name for service in reply.list_services_response.service}

    assert listed >= {
        "segue.v1.Sessions",
        "segue.internal.v1.Membership",
        "segue.internal.v1.PrefillWorker",
        "segue.internal.v1.DecodeWorker",
        "segue.internal.v1.HandoffReader",
        "segue.internal.v1.HandoffWriter",
        "grpc.health.v1.Health",
    }


@pytest.fixture
async def prometheus(ray_cluster: Cluster, tmp_path: Path) -> AsyncIterator[str]:
    """The address of a real Prometheus that scrapes the cluster."""
    status = await status_of(ray_cluster)
    # The router lists itself and all workers.
    discovery = {"url": f"http://{status.router.metrics_address}/targets"}
    with running_prometheus(tmp_path, {"http_sd_configs": [discovery]}) as address:
        yield address


def http_status(address: str, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


async def test_every_metrics_port_answers_probes_and_nothing_else(ray_cluster: Cluster) -> None:
    status = await status_of(ray_cluster)

    for address in (status.router.metrics_address, *(w.metrics_address for w in status.workers)):
        found = {
            path: await asyncio.to_thread(http_status, address, path)
            for path in ("/metrics", "/livez", "/readyz", "/", "/metrics/", "/debug")
        }

        assert found == {
            "/metrics": 200,
            "/livez": 200,
            "/readyz": 200,
            "/": 404,
            "/metrics/": 404,
            "/debug": 404,
        }, address


async def test_a_real_prometheus_scrapes_every_process(prometheus: str) -> None:
    up = await wait_for(prometheus, "up==1", 5)
    first_tokens = await wait_for(prometheus, "segue_time_to_first_token_seconds_count", 1)
    pages = await wait_for(prometheus, "segue_pages", 20)
    handoffs = await wait_for(prometheus, "segue_handoff_bytes_sum", 2)
    builds = await wait_for(prometheus, "segue_build_info", 5)
    memory = await wait_for(prometheus, "process_resident_memory_bytes", 5)
    lengths = await wait_for(prometheus, "segue_answer_length_tokens_count", 1)
    created = await asyncio.to_thread(query, prometheus, '{__name__=~".*_created"}')

    assert len(up) == len(builds) == len(memory) == 5
    assert float(lengths[0]["value"][1]) >= 1  # type: ignore[index]  # Prometheus' JSON
    assert created == []
    assert float(first_tokens[0]["value"][1]) >= 1  # type: ignore[index]  # Prometheus' JSON
    states = {result["metric"]["state"] for result in pages}  # type: ignore[index]
    assert states == {"free", "working", "cached", "reserved", "quarantined"}
    assert sum(float(result["value"][1]) for result in handoffs) > 0  # type: ignore[index]
