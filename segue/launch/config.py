"""The whole cluster's configuration: one TOML file, one dataclass per section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from decode_worker.config import DecodeConfig
from kv_transfer.config import TransferConfig
from prefill_worker.config import PrefillConfig
from router.config import RouterConfig
from segue.config import describe, read_file, section
from segue.engine.config import EngineConfig
from segue.model.settings import CheckpointConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """Section `[cluster]`: what runs, and how much of it."""

    model: str = "demo"
    """"demo" is the checkpoint in the package; otherwise a folder or a hub id."""
    prefill: int = 1
    """Prefill workers."""
    decode: int = 1
    """Decode workers."""
    ray_address: str = ""
    """An existing Ray cluster; empty starts Ray here."""
    worker_host: str = "127.0.0.1"
    """Address that workers listen on and advertise; "node" is the address of their Ray node."""
    start_timeout_s: float = 600.0
    """How long a worker may take from its start until it is ready: large checkpoints load long."""

    def __post_init__(self) -> None:
        for name in ("prefill", "decode"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything `segue serve` reads from its file."""

    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    router: RouterConfig = field(default_factory=RouterConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    prefill: PrefillConfig = field(default_factory=PrefillConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)

    @classmethod
    def from_sections(cls, sections: Mapping[str, Any]) -> Self:
        """Raises InvalidConfig."""
        return cls(
            cluster=section(sections, "cluster", ClusterConfig),
            checkpoint=section(sections, "checkpoint", CheckpointConfig),
            router=section(sections, "router", RouterConfig),
            engine=section(sections, "engine", EngineConfig),
            prefill=section(sections, "prefill", PrefillConfig),
            decode=section(sections, "decode", DecodeConfig),
            transfer=section(sections, "transfer", TransferConfig),
        )

    def to_toml(self) -> str:
        return describe(
            {
                "cluster": self.cluster,
                "checkpoint": self.checkpoint,
                "router": self.router,
                "engine": self.engine,
                "prefill": self.prefill,
                "decode": self.decode,
                "transfer": self.transfer,
            }
        )


def configure(
    path: Path | None,
    *,
    cluster: Mapping[str, object | None],
    router: Mapping[str, object | None],
    decode: Mapping[str, object | None],
    checkpoint: Mapping[str, object | None] = MappingProxyType({}),
) -> Config:
    """The file's settings, overridden by the flags that were given. Raises InvalidConfig."""
    sections = dict(read_file(path))
    given_flags = {
        "cluster": cluster,
        "router": router,
        "decode": decode,
        "checkpoint": checkpoint,
    }
    for name, flags in given_flags.items():
        given = {key: value for key, value in flags.items() if value is not None}
        sections[name] = {**sections.get(name, {}), **given}
    return Config.from_sections(sections)
