"""Settles the model, port, threads and surroundings before Ray is imported and started.

An error in these is reported within a second, not after Ray's start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from router.tenants.keys import Keyring
from segue.launch.config import Config
from segue.launch.devices import require_devices
from segue.launch.model import locate
from segue.launch.ray.surroundings import ray_address, require_surroundings
from segue.process.cores import ALL, UsableCores, separated
from segue.security.config import Security
from segue.wire.addresses import Hosts
from segue.wire.server import free_port

Report = Callable[[str], None]
"""Receives progress messages for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCluster:
    """`config` has no open values; the processes load `model`. `router_ports` and `gateway_ports`
    have one port for each; `config` has the first ones too. `security` has a secret.
    """

    config: Config
    model: str
    router_ports: tuple[int, ...]
    gateway_ports: tuple[int, ...]
    security: Security


def prepare(config: Config, report: Report) -> PreparedCluster:
    """Raises InvalidCheckpoint, InvalidConfig, and Unavailable if Ray cannot be reached."""
    # Only processes of this cluster need the secret, so a random one suffices.
    security = config.security.security().with_secret()
    address = ray_address(config.cluster.ray_address)
    if not address:
        # With another cluster, the file is on the routers' nodes.
        Keyring(config.router)
    report("finding the model")
    config = replace(config, cluster=replace(config.cluster, ray_address=address))
    if not address:
        require_devices(config)
    if config.engine.device == "cuda":
        cluster = config.cluster
        share = min(cluster.gpus_per_prefill, cluster.gpus_per_decode)
        config = replace(config, engine=replace(config.engine, gpu_share=share))
    model, config, memory = locate(config, report)
    if memory:
        report(memory)
    config, router_ports, gateway_ports = _with_ports(config)
    config = _with_cores(config)
    num_front = config.cluster.routers + config.cluster.num_gateways
    require_surroundings(address, num_front + config.num_worker_processes)
    return PreparedCluster(
        model=model,
        config=config,
        router_ports=router_ports,
        gateway_ports=gateway_ports,
        security=security,
    )


def _with_ports(config: Config) -> tuple[Config, tuple[int, ...], tuple[int, ...]]:
    """Picks free ports now, because a restarted router or gateway must keep its address. Also
    returns each router's port, and each gateway's.

    On another cluster the router's node has its own ports. Raises InvalidConfig if the port is
    taken.
    """
    config = replace(config, gateway=config.gateway.with_port(config.router.port))
    routers = consecutive(config.router.port, config.cluster.routers)
    gateways = consecutive(config.gateway.port, config.cluster.num_gateways)
    if config.cluster.ray_address:
        return config, routers, gateways
    listen = Hosts.of(config.router.host, config.router.announce).listen
    routers = _free_ports(listen, routers, "--port")
    config = replace(config, router=replace(config.router, port=routers[0]))
    if not gateways:
        return config, routers, ()
    listen = Hosts.of(config.gateway.host, "").listen
    gateways = _free_ports(listen, gateways, "--http-port (--no-http: none)", taken=routers)
    return replace(config, gateway=replace(config.gateway, port=gateways[0])), routers, gateways


def _free_ports(
    listen: str, wanted: tuple[int, ...], option: str, *, taken: tuple[int, ...] = ()
) -> tuple[int, ...]:
    """Raises InvalidConfig if one is taken."""
    ports: list[int] = []
    for port in wanted:
        while (found := free_port(listen, port, option=option)) in (*ports, *taken) and not port:
            pass  # The system has chosen the same port again.
        ports.append(found)
    return tuple(ports)


def consecutive(first: int, count: int) -> tuple[int, ...]:
    """Consecutive ports; 0 for each if the system chooses them."""
    return tuple(first + index if first else 0 for index in range(count))


def _with_cores(config: Config) -> Config:
    """Workers that have no cores of their own may use every core of this machine: prefill and
    decode of one turn alternate. On another cluster the operator decides. Raises InvalidConfig.
    """
    if config.cluster.ray_address:
        return config
    if not (config.engine.cores or config.engine.num_threads):
        config = replace(config, engine=replace(config.engine, cores=ALL))
    most_threads(config)
    return config


def most_threads(config: Config) -> int:
    """The largest number of threads of a rank on this machine. Raises InvalidConfig for cores that
    do not exist here."""
    usable = UsableCores.of_process()
    return max(
        replace(engine, cores=cores).on(usable, threads_are_set=False).num_threads
        for engine in config.engines.values()
        for cores in separated(engine.cores)
    )
