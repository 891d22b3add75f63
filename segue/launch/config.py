"""The whole cluster's configuration: one TOML file, one dataclass per section."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self, get_type_hints

from decode_worker.config import DecodeConfig
from kv_transfer.config import TransferConfig
from prefill_worker.config import PrefillConfig
from router.config import RouterConfig
from segue.api.errors import InvalidConfig
from segue.api.types import Role
from segue.config import describe, naming, read_file, section
from segue.engine.config import EngineConfig
from segue.gateway.config import GatewayConfig
from segue.launch.scale.config import AutoscaleConfig
from segue.model.checkpoint.source import CheckpointConfig
from segue.process.cores import separated
from segue.security.config import SecurityConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """Restricts where in a Ray cluster a process may run."""

    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses `label:zone=a, resource:rack1=0.01`. Raises ValueError."""
        labels: dict[str, str] = {}
        resources: dict[str, float] = {}
        for term in filter(None, (part.strip() for part in text.split(","))):
            kind, _, pair = term.partition(":")
            # Label keys may have a prefix: `ray.io/accelerator-type`.
            name, _, value = (part.strip() for part in pair.partition("="))
            if kind == "label" and name and value:
                labels[name] = value
            elif kind == "resource" and name and _is_amount(value):
                resources[name] = float(value)
            else:
                raise ValueError(
                    f"must list label:NAME=VALUE or resource:NAME=AMOUNT, with commas, got {term!r}"
                )
        return cls(labels=labels, resources=resources)


ANYWHERE = Pin()


def _is_amount(text: str) -> bool:
    try:
        return 0.0 < float(text) < float("inf")
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """Section `[cluster]`: the processes and their number."""

    model: str = "demo"
    """"demo" is the bundled checkpoint; otherwise a folder or a hub id."""
    prefill: int = 1
    """Prefill workers."""
    decode: int = 1
    """Decode workers."""
    routers: int = 1
    """Routers, on consecutive ports from `[router] port`. Workers join all of them, and any router
    can serve any session.
    """
    ray_address: str = ""
    """An existing Ray cluster, as host:port. If empty, the environment's RAY_ADDRESS is used, and
    if that is not set, Ray is started here. "local" always starts Ray here.
    """
    worker_host: str = "127.0.0.1"
    """Address that workers listen on; "node" is the address of their Ray node."""
    worker_announce: str = ""
    """Address that others use to reach a worker. If empty, it is `worker_host`, or the node's
    address if that is a wildcard such as 0.0.0.0.
    """
    prefill_port: int = 0
    """gRPC port of prefill-0; each further worker has the next port, unless `one_worker_per_node`
    is set. 0 lets the system choose.
    """
    prefill_metrics_port: int = 0
    """Port for metrics; the same rules apply."""
    decode_port: int = 0
    decode_metrics_port: int = 0
    one_worker_per_node: bool = False
    """A Ray node has at most one worker of each role, as in Kubernetes, where each pod is a node.
    All workers of a role then have the same ports, which probes and network policies can name.
    Another setting must keep the workers apart, such as `prefill_on` = "resource:NAME=1".
    """
    room_timeout_s: float = 5.0
    """How long to wait for the nodes of an existing Ray cluster, which may still be starting, and
    for resources that were just released.
    """
    ray_autoscales: bool = False
    """The Ray cluster adds nodes on request. Workers that do not fit yet then cause a request for
    nodes instead of an error, at the start too. Set `room_timeout_s` to the time that a node takes
    to start.
    """
    gpus_per_prefill: float = 1.0
    """With `[engine] device` = "cuda": the fraction of a GPU that Ray reserves for a prefill
    worker. With 0.5 here and below, a prefill and a decode worker share one GPU; each allocates its
    own `cache_bytes`.
    """
    gpus_per_decode: float = 1.0
    cpus_per_worker: float = 0.0
    """CPUs that Ray reserves for a worker. 0 lets Ray put workers on any node, even a busy one."""
    router_on: str = ""
    """Where the router may run: `label:NAME=VALUE` and `resource:NAME=AMOUNT`, comma-separated.
    After a restart it must keep its address, so with several nodes it needs a label.
    """
    prefill_on: str = ""
    """Where prefill workers may run; same format."""
    decode_on: str = ""
    """Where decode workers may run; same format."""
    http: bool = True
    """Whether HTTP gateways run next to the routers."""
    gateways: int = 1
    """Gateways, on consecutive ports from `[gateway] port`. With two, one serves while the other
    restarts; a load balancer or the client chooses.
    """
    start_timeout_s: float = 600.0
    """Time limit from a worker's start until it is ready; large checkpoints take long to load."""

    def __post_init__(self) -> None:
        for name in ("prefill", "decode", "routers", "gateways"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        self._check_workers_ports()
        for name in ("gpus_per_prefill", "gpus_per_decode"):
            # A worker uses one device.
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name):g}")
        for name in ("cpus_per_worker", "room_timeout_s"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name):g}")
        for name in ("router_on", "prefill_on", "decode_on"):
            try:
                Pin.parse(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{name} {error}") from None

    def _check_workers_ports(self) -> None:
        for role in ("prefill", "decode"):
            count = 1 if self.one_worker_per_node else getattr(self, role)
            for name in (f"{role}_port", f"{role}_metrics_port"):
                _check_ports(name, getattr(self, name), count)

    @property
    def num_gateways(self) -> int:
        return self.gateways if self.http else 0


def _check_ports(name: str, first: int, count: int) -> None:
    if first and not 0 < first <= 65536 - count:
        raise ValueError(f"{name} must be 0, or leave {count} ports below 65536, got {first}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything `segue serve` reads from its file."""

    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    router: RouterConfig = field(default_factory=RouterConfig)
    security: SecurityConfig = field(default_factory=SecurityConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    prefill: PrefillConfig = field(default_factory=PrefillConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)
    autoscale: AutoscaleConfig = field(default_factory=AutoscaleConfig)

    def __post_init__(self) -> None:
        """Raises InvalidConfig."""
        routers, gateways = self.cluster.routers, self.cluster.num_gateways
        for owner, name, port, count in (
            ("router", "port", self.router.port, routers),
            ("router", "metrics_port", self.router.metrics_port, routers),
            ("gateway", "port", max(self.gateway.port, 0), gateways),
        ):
            try:
                _check_ports(name, port, count)
            except ValueError as error:
                raise InvalidConfig(f"[{owner}] {error}") from None
        for role, engine in self.engines.items():
            gpus = getattr(self.cluster, f"gpus_per_{role}")
            if engine.tensor_parallel > 1 and engine.device == "cuda" and gpus != 1.0:
                raise InvalidConfig(
                    f"[cluster] gpus_per_{role} must be 1 with tensor_parallel = "
                    f"{engine.tensor_parallel}, got {gpus:g}: each rank has a GPU of its own"
                )

    @property
    def engines(self) -> dict[Role, EngineConfig]:
        """`[engine]` as the workers of each role have it. Raises InvalidConfig."""
        return {
            Role.PREFILL: self.engine.of_role(self.prefill.tensor_parallel, self.prefill.cores),
            Role.DECODE: self.engine.of_role(self.decode.tensor_parallel, self.decode.cores),
        }

    def of_worker(self, role: Role, index: int) -> Config:
        """One worker's configuration: `[engine] cores` is its own list of its role's."""
        lists = separated(self.engines[role].cores)
        return replace(
            self,
            engine=replace(self.engine, cores=lists[index % len(lists)]),
            prefill=replace(self.prefill, cores=""),
            decode=replace(self.decode, cores=""),
        )

    @property
    def num_worker_processes(self) -> int:
        """Counts each rank."""
        engines, cluster = self.engines, self.cluster
        return (
            cluster.prefill * engines[Role.PREFILL].tensor_parallel
            + cluster.decode * engines[Role.DECODE].tensor_parallel
        )

    @classmethod
    def from_sections(cls, sections: Mapping[str, Any]) -> Self:
        """Raises InvalidConfig."""
        kinds = get_type_hints(cls)
        read = {name: section(sections, name, kind) for name, kind in kinds.items()}
        with naming(sections):
            return cls(**read)

    def to_toml(self) -> str:
        return describe({one.name: getattr(self, one.name) for one in fields(self)})


def configure(
    path: Path | None,
    flags: Mapping[str, Mapping[str, object | None]],
    *,
    api_keys: Iterable[str] = (),
) -> Config:
    """The file's settings, overridden by `flags`: by section, None if not given. The configuration
    has the hashes of `api_keys`, which are comma-separated texts. Raises InvalidConfig and
    InvalidRequest."""
    read = read_file(path)
    sections = dict(read)
    for name, settings in flags.items():
        given = {key: value for key, value in settings.items() if value is not None}
        sections[name] = {**sections.get(name, {}), **given}
    try:
        config = Config.from_sections(sections)
    except InvalidConfig:
        # Names the file if the error is there, and not in a flag.
        Config.from_sections(read)
        raise
    return replace(config, router=config.router.with_keys(api_keys))
