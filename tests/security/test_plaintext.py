"""A whole cluster with a proxy on each hop, which sees every byte: with TLS nothing of a turn is
among them, without it everything is."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2
import pytest

from decode_worker.__main__ import running as running_decode
from decode_worker.config import DecodeConfig
from kv_transfer.config import TransferConfig
from kv_transfer.transport.loopback import LoopbackNetwork
from prefill_worker.__main__ import running as running_prefill
from prefill_worker.config import PrefillConfig
from router.__main__ import running as running_router
from router.config import RouterConfig
from segue.api.prompt import pack_tokens
from segue.api.types import StopConditions, TokenInput
from segue.gateway.__main__ import running as running_gateway
from segue.gateway.config import GatewayConfig
from segue.sdk.client import Client
from segue.security.config import Security
from segue.security.secret import ClusterSecret
from segue.worker.process.options import WorkerOptions
from tests.cluster.conftest import ENGINE
from tests.cluster.waiting import wait_until_ready
from tests.security.conftest import SECRET, security_in
from tests.security.proxy import PROXY_HOST, Seen, seeing

WORDS = "brillig-and-the-slithy-toves"
KEY = "sk-nobody-may-see-this-key"
TOKENS = [731, 902, 1093, 744, 815]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Bytes by the server that was dialled."""

    seen: dict[str, Seen]

    def has(self, secret: bytes) -> set[str]:
        return {server for server, octets in self.seen.items() if secret in octets}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.asynccontextmanager
async def watched(model: Path, security: Security) -> AsyncIterator[tuple[Watched, str, str]]:
    """A running 1+1 cluster with a gateway. Also yields the addresses of router and gateway, which
    are the proxies'.
    """
    ports = {name: free_port() for name in ("router", "gateway", "prefill-0", "decode-0")}
    network = LoopbackNetwork()
    async with contextlib.AsyncExitStack() as stack:
        seen = {name: await stack.enter_async_context(seeing(port)) for name, port in ports.items()}
        config = RouterConfig(port=ports["router"], announce=PROXY_HOST, drain_s=1.0)
        config = config.with_keys([KEY])
        router = await stack.enter_async_context(
            running_router(config, str(model), security=security)
        )
        options = {
            name: WorkerOptions(
                worker_id=name,
                model=str(model),
                router_address=router.address,
                announce=PROXY_HOST,
                port=ports[name],
                security=security,
            )
            for name in ("prefill-0", "decode-0")
        }
        transfer = TransferConfig()
        await stack.enter_async_context(
            running_prefill(
                options["prefill-0"],
                engine=ENGINE,
                prefill=PrefillConfig(),
                transfer=transfer,
                open_transport=network.open,
            )
        )
        await stack.enter_async_context(
            running_decode(
                options["decode-0"],
                engine=ENGINE,
                decode=DecodeConfig(),
                transfer=transfer,
                open_transport=network.open,
            )
        )
        await stack.enter_async_context(
            running_gateway(
                GatewayConfig(port=ports["gateway"]),
                router.address,
                replace(security, secret=None),
            )
        )
        yield Watched(seen=seen), router.address, f"{PROXY_HOST}:{ports['gateway']}"


async def talk(model: Path, security: Security, ca: str) -> Watched:
    """A turn over gRPC and one over HTTP."""
    scheme = "https" if security.tls else "http"
    async with watched(model, security) as (seen, router, gateway):
        async with Client(router, api_key=KEY, tls=security.tls) as client:
            await wait_until_ready(client, 2)
            await client.generate(
                TokenInput(tuple(TOKENS)), session_id=WORDS, stop=StopConditions(max_tokens=4)
            )
        async with httpx2.AsyncClient(
            base_url=f"{scheme}://{gateway}",
            verify=ssl.create_default_context(cafile=ca) if ca else False,
            timeout=30,
        ) as http:
            answer = await http.post(
                "/v1/chat/completions",
                headers={"authorization": f"Bearer {KEY}"},
                json={"messages": [{"role": "user", "content": WORDS}], "max_tokens": 4},
            )
            assert answer.status_code == 200, answer.text
    return seen


async def test_no_hop_shows_a_turn(demo: Path, certificates: Path) -> None:
    security = security_in(certificates)

    seen = await talk(demo, security, str(certificates / "ca.pem"))

    assert all(len(octets) > 2_000 for octets in seen.seen.values())
    assert all(octets.num_connections for octets in seen.seen.values())
    for secret in (WORDS, KEY, SECRET, "decode-0", "segue.v1", "segue.internal", "authorization"):
        assert seen.has(secret.encode()) == set(), secret
    assert seen.has(pack_tokens(TOKENS)) == set()


async def test_without_tls_they_do(demo: Path) -> None:
    """The proxies see what they should."""
    seen = await talk(demo, Security(secret=ClusterSecret(SECRET)), "")

    assert seen.has(KEY.encode()) == {"router", "gateway"}
    assert seen.has(WORDS.encode()) >= {"router", "gateway", "prefill-0", "decode-0"}
    assert seen.has(SECRET.encode()) >= {"router", "prefill-0", "decode-0"}
    assert seen.has(pack_tokens(TOKENS)) >= {"prefill-0"}


@pytest.fixture(scope="session")
def demo() -> Path:
    from segue.demo import checkpoint_dir

    return checkpoint_dir()
