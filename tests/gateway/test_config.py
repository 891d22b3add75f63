"""The gateway's port: 8000, but not if several clusters may start on the machine."""

from __future__ import annotations

import pytest

from segue.gateway.config import GatewayConfig


@pytest.mark.parametrize(
    ("port", "router_port", "expected"),
    [(-1, 7411, 8000), (-1, None, 8000), (-1, 0, 0), (0, 7411, 0), (8000, 0, 8000), (9, 0, 9)],
)
def test_the_default_port_follows_the_routers(
    port: int, router_port: int | None, expected: int
) -> None:
    assert GatewayConfig(port=port).with_port(router_port).port == expected


def test_a_port_that_cannot_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="port must be"):
        GatewayConfig(port=65536)
