"""Several routers get ports of their own, which they keep after a restart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.config import RouterConfig
from segue.api.errors import InvalidConfig
from segue.gateway.config import GatewayConfig
from segue.launch import prepare
from segue.launch.cluster import _addresses_here, _router_configs
from segue.launch.config import ClusterConfig, Config
from segue.launch.prepare import PreparedCluster, consecutive
from segue.launch.ray.demand import demands_of
from segue.security.config import OPEN
from segue.wire.server import free_port


def config_of(routers: int, port: int = 0, **others: int) -> Config:
    return Config(
        cluster=ClusterConfig(routers=routers),
        router=RouterConfig(port=port, **others),  # type: ignore[arg-type]  # a test's options
        gateway=GatewayConfig(port=0),
    )


def test_ports_are_consecutive_or_all_chosen_by_the_system() -> None:
    assert consecutive(7411, 3) == (7411, 7412, 7413)
    assert consecutive(0, 2) == (0, 0)


def test_free_ports_are_chosen_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    # The system may choose the same port twice, since nothing listens there yet.
    found = iter([5001, 5001, 5001, 5002, 5003])
    monkeypatch.setattr(prepare, "free_port", lambda host, port, **_: next(found))

    config, ports, _ = prepare._with_ports(config_of(2))

    assert ports == (5001, 5002)
    assert (config.router.port, config.gateway.port) == (5001, 5003)


def test_a_port_that_is_taken_is_refused_for_any_router() -> None:
    from socket import socket

    with socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        first = port - 1
        free_port("127.0.0.1", first)
        with pytest.raises(InvalidConfig, match=f"cannot listen on 127.0.0.1:{port}"):
            prepare._with_ports(config_of(2, first))


def prepared(config: Config) -> PreparedCluster:
    return PreparedCluster(
        model="m",
        config=config,
        router_ports=(7411, 7412),
        gateway_ports=(),
        security=OPEN,
    )


def test_each_router_has_its_own_ports() -> None:
    configs = list(_router_configs(prepared(config_of(2, 7411, metrics_port=9100))))

    ports = [(config.router.port, config.router.metrics_port) for config in configs]
    assert ports == [(7411, 9100), (7412, 9101)]


@pytest.mark.parametrize(
    ("host", "announce", "known"),
    [
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "gate", "gate"),
        ("0.0.0.0", "", "10.0.0.7"),
        ("node", "", "10.0.0.7"),
    ],
)
def test_the_addresses_of_routers_here_are_known_before_they_start(
    host: str, announce: str, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segue.launch.cluster.node_address", lambda: "10.0.0.7")
    router = RouterConfig(port=7411, host=host, announce=announce)

    addresses = _addresses_here(prepared(replace(config_of(2), router=router)))

    assert addresses == [f"{known}:7411", f"{known}:7412"]


def test_the_first_router_has_no_number_in_its_name() -> None:
    names = [demand.process for demand in demands_of(config_of(3)) if demand.role is None]

    assert names == ["router", "router-1", "router-2"]


@pytest.mark.parametrize("name", ["port", "metrics_port"])
def test_ports_beyond_the_last_one_are_refused(name: str) -> None:
    with pytest.raises(InvalidConfig, match=rf"\[router\] {name} must be 0, or leave 2 ports"):
        config_of(2, **{name: 65_535})


def test_each_gateway_has_its_own_port() -> None:
    config = Config(
        cluster=ClusterConfig(routers=2, gateways=3),
        router=RouterConfig(port=0),
        gateway=GatewayConfig(port=0),
    )

    with_ports, routers, gateways = prepare._with_ports(config)

    assert len({*routers, *gateways}) == 5
    assert with_ports.gateway.port == gateways[0]


def test_gateways_take_consecutive_ports() -> None:
    assert prepare.consecutive(8000, 2) == (8000, 8001)
    with pytest.raises(InvalidConfig, match=r"\[gateway\] port must be 0, or leave 2 ports"):
        Config(cluster=ClusterConfig(gateways=2), gateway=GatewayConfig(port=65_535))
    # Without HTTP there is none.
    Config(cluster=ClusterConfig(gateways=2, http=False), gateway=GatewayConfig(port=65_535))
