"""The options of a worker process, from its command line or its launcher."""

from __future__ import annotations

from dataclasses import dataclass

from segue.api.types import Role, WorkerId
from segue.security.config import OPEN, Security
from segue.wire.addresses import Hosts, require_target
from segue.worker.membership.identity import Identity, take_identity


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """The options of a worker process that are not in its configuration."""

    worker_id: str
    model: str
    router_address: str
    """Or several, comma-separated: the worker joins each of them."""
    host: str = "127.0.0.1"
    """Address to listen on, or "node"."""
    announce: str = ""
    """Address that others use, if different."""
    port: int = 0
    metrics_port: int = 0
    security: Security = OPEN

    def __post_init__(self) -> None:
        """Raises InvalidRequest for a router's address that is none."""
        for router in self.routers:
            require_target(router)

    @property
    def routers(self) -> tuple[str, ...]:
        return tuple(address.strip() for address in self.router_address.split(","))

    async def take_identity(self, role: Role) -> Identity:
        """Starts a new life of this worker."""
        worker_id = WorkerId(self.worker_id)
        return await take_identity(worker_id, role, self.routers, security=self.security)

    @property
    def hosts(self) -> Hosts:
        return Hosts.of(self.host, self.announce)
