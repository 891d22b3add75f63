"""What is settled before Ray is imported and started: model, port, threads, surroundings.

What is wrong with these is said within a second, not after Ray's start.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from segue.launch.config import Config
from segue.launch.devices import require_devices
from segue.launch.model import locate
from segue.launch.surroundings import ray_address, require_surroundings
from segue.wire.addresses import Hosts
from segue.wire.server import free_port

Report = Callable[[str], None]
"""Told what is being started, in words for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """`config` has every value that was left open; `model` is what the processes load."""

    config: Config
    model: str


def prepare(config: Config, report: Report) -> Prepared:
    """Raises InvalidCheckpoint, InvalidConfig, and Unavailable for a Ray that is not there."""
    report("finding the model")
    address = ray_address(config.cluster.ray_address)
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
    config = _with_threads(_with_port(config))
    require_surroundings(address, 1 + config.cluster.prefill + config.cluster.decode)
    return Prepared(model=model, config=config)


def _with_port(config: Config) -> Config:
    """A free port, found now: a router that is started again must be where it was before.

    On another cluster the router's node has ports of its own. Raises InvalidConfig for a taken one.
    """
    if config.cluster.ray_address:
        return config
    hosts = Hosts.of(config.router.host, config.router.announce)
    port = free_port(hosts.listen, config.router.port)
    return replace(config, router=replace(config.router, port=port))


def _with_threads(config: Config) -> Config:
    """Every worker may use every core of this machine: prefill and decode of one turn take turns.

    On another cluster that is for its operator to say.
    """
    if config.engine.num_threads or config.cluster.ray_address:
        return config
    return replace(config, engine=replace(config.engine, num_threads=os.cpu_count() or 1))
