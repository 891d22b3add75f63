"""What can be set about moving bytes: section `[transfer]`, equal for all workers."""

from __future__ import annotations

from dataclasses import dataclass

from kv_transfer.mooncake import MooncakeConfig
from segue.errors import InvalidConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferConfig:
    protocol: str = "tcp"
    """"tcp" or "rdma". Without an RDMA device nothing starts with "rdma"."""
    devices: str = ""
    """RDMA devices, comma-separated; empty lets Mooncake choose."""
    progress_timeout_s: int = 5
    """A connection on which no byte moves for so long is closed; below `transfer_timeout_s`."""
    transfer_timeout_s: int = 15
    """A write that takes longer has failed."""
    min_port: int = 0
    """Mooncake's ports lie between this and `max_port`, both included: at least 8 for each worker
    of a machine, since an engine that is replaced leaves its ports busy for a while. 0 leaves them
    to Mooncake, which takes 15000 to 17000.
    """
    max_port: int = 0
    max_gbit_per_s: float = 0.0
    """What each worker may send at most; 0 for as fast as it goes. Leaves a shared link usable for
    others."""
    verify_checksums: bool = True
    """The writer sums what it sends, the reader what arrived; a difference fails the turn."""

    def __post_init__(self) -> None:
        # What the transport would refuse later, in every worker, is refused here and once.
        self.mooncake(host="")
        if self.max_gbit_per_s < 0:
            raise InvalidConfig(
                f"max_gbit_per_s must be >= 0 (0 sets no limit), got {self.max_gbit_per_s:g}"
            )

    def mooncake(self, *, host: str) -> MooncakeConfig:
        """Raises InvalidConfig."""
        return MooncakeConfig(
            protocol=self.protocol,
            host=host,
            devices=self.devices,
            progress_timeout_s=self.progress_timeout_s,
            transfer_timeout_s=self.transfer_timeout_s,
            min_port=self.min_port,
            max_port=self.max_port,
        )
