"""The address a process listens on, and the one it announces."""

from __future__ import annotations

import socket

import grpc
import pytest

from segue.security.config import Security
from segue.wire.addresses import Hosts, is_wildcard, own_address
from segue.wire.server import serving


@pytest.mark.parametrize(
    ("listen", "announce", "expected"),
    [
        ("127.0.0.1", "", Hosts("127.0.0.1", "127.0.0.1")),
        ("0.0.0.0", "gpu-1.example", Hosts("0.0.0.0", "gpu-1.example")),
        ("0.0.0.0", "", Hosts("0.0.0.0", "10.1.2.3")),
        ("::", "", Hosts("::", "10.1.2.3")),
        ("node", "", Hosts("10.1.2.3", "10.1.2.3")),
        ("0.0.0.0", "node", Hosts("0.0.0.0", "10.1.2.3")),
        ("localhost", "", Hosts("localhost", "localhost")),
    ],
)
def test_the_announced_address(listen: str, announce: str, expected: Hosts) -> None:
    assert Hosts.of(listen, announce, lambda: "10.1.2.3") == expected


def test_the_machines_own_address_can_be_bound() -> None:
    address = own_address()

    assert not is_wildcard(address)
    with socket.socket() as probe:
        probe.bind((address, 0))


async def test_a_server_that_listens_everywhere_is_reachable_where_it_announces() -> None:
    """127.0.0.2 is this machine too, but a server on 127.0.0.1 is not reachable there."""
    async with serving(
        "0.0.0.0", 0, lambda address: [], announce="127.0.0.2", security=Security().with_secret()
    ) as running:
        assert running.address.startswith("127.0.0.2:")
        async with grpc.aio.insecure_channel(running.address) as channel:
            await channel.channel_ready()
