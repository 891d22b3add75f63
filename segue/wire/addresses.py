"""The address that a process listens on, and the one that others dial, which may differ."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from segue.api.checks import require, require_type
from segue.api.errors import InvalidRequest

NODE = "node"
"""A host that means the address of the process's machine."""


@dataclass(frozen=True, slots=True)
class Hosts:
    """The process binds to `listen`; others dial `announce`."""

    listen: str
    announce: str

    @classmethod
    def of(cls, listen: str, announce: str, node_address: Callable[[], str] | None = None) -> Hosts:
        """An empty `announce` becomes `listen`, or the machine's address if that is a wildcard."""
        find = node_address or own_address
        listen = find() if listen == NODE else listen
        if announce == NODE or (not announce and is_wildcard(listen)):
            announce = find()
        return cls(listen, announce or listen)

    def at(self, port: int) -> str:
        """The address that others dial."""
        return f"{self.announce}:{port}"


# gRPC's own targets, such as unix:/run/segue.sock, dns:///router:7411, ipv6:[::1]:7411.
_SCHEMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "passthrough:", "xds:", "vsock:")


def split_targets(targets: str | Sequence[str]) -> list[str]:
    """The addresses of one or more routers, from a list or a comma-separated text. Raises
    InvalidRequest."""
    expected = "a text such as 127.0.0.1:7411, or a list of them"
    require_type("target", targets, (str, list, tuple), expected)
    names = list(targets)
    if isinstance(targets, str):
        # gRPC's own forms may list several addresses of one server.
        is_one = "," not in targets or targets.startswith(("ipv4:", "ipv6:"))
        names = [targets] if is_one else [name.strip() for name in targets.split(",")]
    require(bool(names), "target must have at least one address of a router, got an empty list")
    for name in names:
        require_type("target", name, str, expected)
        require_target(name)
    return list(dict.fromkeys(names))


def require_target(target: str) -> None:
    """Raises InvalidRequest for an address that a client cannot dial. gRPC itself would resolve it
    as a host name, or use another port.
    """
    if target.startswith(_SCHEMES):
        return
    host, _, port = target.rpartition(":")
    if "/" in target or not host or any(character.isspace() for character in target):
        raise InvalidRequest(
            f"the router's address is HOST:PORT such as 127.0.0.1:7411, got {target!r:.80}"
        )
    if not (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) < 65536):
        raise InvalidRequest(
            f"{port!r:.20} is not a valid port (1 to 65535) in the address {target!r:.80}"
        )


def is_wildcard(host: str) -> bool:
    """Whether it means all of the machine's addresses, so that others cannot dial it."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False


def own_address() -> str:
    """The address that this machine uses to reach others; loopback if it has none.

    Sends nothing: connecting a datagram socket only chooses a route.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # An address reserved for documentation: any address that is not local works.
            probe.connect(("203.0.113.1", 9))
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
    return address
