"""Where a process listens, and the host by which others reach it: two things."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass

NODE = "node"
"""As a host: the address of the machine that the process runs on."""


@dataclass(frozen=True, slots=True)
class Hosts:
    """`listen` is bound to, `announce` is what others dial."""

    listen: str
    announce: str

    @classmethod
    def of(cls, listen: str, announce: str, node_address: Callable[[], str] | None = None) -> Hosts:
        """An empty `announce` is what is listened on, or the machine's address for a wildcard."""
        find = node_address or own_address
        listen = find() if listen == NODE else listen
        if announce == NODE or (not announce and is_wildcard(listen)):
            announce = find()
        return cls(listen, announce or listen)

    def at(self, port: int) -> str:
        """What others dial."""
        return f"{self.announce}:{port}"


def is_wildcard(host: str) -> bool:
    """Whether it stands for every address of the machine, and so for none that others can dial."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False


def own_address() -> str:
    """The address that this machine uses towards others; loopback where it has none.

    Nothing is sent: connecting a datagram socket only chooses a route.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # A documentation address: any that is not local will do.
            probe.connect(("203.0.113.1", 9))
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
    return address
