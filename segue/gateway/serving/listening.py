"""The gateway's socket."""

from __future__ import annotations

import contextlib
import socket

from segue.api.errors import InvalidConfig
from segue.gateway.config import GatewayConfig

_BACKLOG = 2048
# Of an answer, in the kernel.
_UNSENT_BYTES = 64 << 10


def listening(config: GatewayConfig, *, is_shared: bool = False) -> socket.socket:
    """`is_shared`: with other processes of the same user, which all listen on the port: the system
    spreads connections over them. Raises InvalidConfig.
    """
    listener = _bound(config.with_port(), is_shared=is_shared)
    listener.listen(_BACKLOG)
    return listener


def reserved(config: GatewayConfig) -> socket.socket:
    """Holds the port for processes that share it, without listening. Raises InvalidConfig."""
    config = config.with_port()
    # Sharing would also let a gateway of another cluster in.
    with contextlib.closing(_bound(config, is_shared=False)) as probe:
        probe.listen(1)
    return _bound(config, is_shared=True)


def _bound(config: GatewayConfig, *, is_shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # Without the protocol, asyncio would leave Nagle's algorithm on: 40 ms for each answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if lowat := getattr(socket, "TCP_NOTSENT_LOWAT", 0):
        # Connections inherit it. Else the kernel keeps megabytes for a client that reads nothing.
        listener.setsockopt(socket.IPPROTO_TCP, lowat, _UNSENT_BYTES)
    try:
        listener.bind((config.host, config.port))
        return listener
    except OSError as error:
        listener.close()
        raise InvalidConfig(
            f"cannot serve HTTP on {config.host}:{config.port} ({error.strerror}); stop the "
            "process that uses it, or choose another port with --http-port (0 lets the system "
            "choose)"
        ) from None
