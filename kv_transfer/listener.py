"""How long the end of one of Mooncake's engines takes.

Its listener waits for peers and looks once a second whether it should end. Whoever drops the
engine waits for that, up to a second, with Python's lock held: nothing else of the process runs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

_LOOKS_EVERY_S = 0.05
_TIMEVAL = struct.Struct("ll")


def look_often(port: int) -> None:
    """Has the listener on this port of this process look more often, from its next look on."""
    for name in os.listdir("/proc/self/fd"):
        # Other threads open and close theirs meanwhile, and not all are sockets.
        with contextlib.suppress(OSError), _borrowed(int(name)) as found:
            if _waits_on(found, port):
                interval = _TIMEVAL.pack(0, round(_LOOKS_EVERY_S * 1e6))
                found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)


def _borrowed(descriptor: int) -> socket.socket:
    """Another descriptor of the same socket. Raises OSError."""
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def _waits_on(found: socket.socket, port: int) -> bool:
    """Whether it accepts connections there, and looks up now and then."""
    if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    interval = found.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.size)
    return found.getsockname()[1] == port and interval != bytes(_TIMEVAL.size)
