"""Lets a listening socket of a library, which listens on all addresses, accept only connections
from this machine.

The socket stays bound to all addresses, but the kernel drops every packet to it that does not come
from a loopback address, before any byte reaches the process. Accepted connections inherit that.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import socket
import struct
from collections.abc import Iterator

logger = logging.getLogger(__name__)

_SO_ATTACH_FILTER = 26
_WILDCARDS = ("0.0.0.0", "::")

# Classic BPF (linux/filter.h). Offsets from SKF_NET_OFF on count from the IP header.
_INSTRUCTION = struct.Struct("HBBI")
_LOAD_BYTE, _LOAD_WORD, _AND, _JUMP_IF_EQUAL, _RETURN = 0x30, 0x20, 0x54, 0x15, 0x06
_NETWORK = 0xFFF00000
_ACCEPT, _DROP = 0xFFFFFFFF, 0
_PROGRAM = (
    (_LOAD_BYTE, 0, 0, _NETWORK),
    (_AND, 0, 0, 0xF0),
    (_JUMP_IF_EQUAL, 0, 2, 0x40),
    # IPv4: the source address starts with 127.
    (_LOAD_BYTE, 0, 0, _NETWORK + 12),
    (_JUMP_IF_EQUAL, 8, 9, 127),
    # IPv6: the source address is ::1.
    (_LOAD_WORD, 0, 0, _NETWORK + 8),
    (_JUMP_IF_EQUAL, 0, 7, 0),
    (_LOAD_WORD, 0, 0, _NETWORK + 12),
    (_JUMP_IF_EQUAL, 0, 5, 0),
    (_LOAD_WORD, 0, 0, _NETWORK + 16),
    (_JUMP_IF_EQUAL, 0, 3, 0),
    (_LOAD_WORD, 0, 0, _NETWORK + 20),
    (_JUMP_IF_EQUAL, 0, 1, 1),
    (_RETURN, 0, 0, _ACCEPT),
    (_RETURN, 0, 0, _DROP),
)


@contextlib.contextmanager
def only_from_loopback() -> Iterator[None]:
    """Sockets that start to listen on all addresses inside the block will accept only connections
    from this machine.
    """
    before = {inode for inode, _ in _listening()}
    yield
    for inode, descriptor in _listening():
        if inode not in before:
            _restrict(descriptor)


def _listening() -> list[tuple[int, int]]:
    """Inode and descriptor of this process's sockets that listen on all addresses."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        # Other threads open and close descriptors at the same time, and not all are sockets.
        with contextlib.suppress(OSError), borrowed(int(name)) as one:
            accepts = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            is_ip = one.family in (socket.AF_INET, socket.AF_INET6)
            if accepts and is_ip and one.getsockname()[0] in _WILDCARDS:
                found.append((os.fstat(one.fileno()).st_ino, int(name)))
    return found


def borrowed(descriptor: int) -> socket.socket:
    """Another descriptor of the same socket. Raises OSError."""
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def _restrict(descriptor: int) -> None:
    program = b"".join(_INSTRUCTION.pack(*one) for one in _PROGRAM)
    buffer = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HP", len(_PROGRAM), ctypes.addressof(buffer))
    try:
        with borrowed(descriptor) as listener:
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)
    except OSError as error:
        logger.warning(
            "Mooncake's port is open to other machines: close it with a firewall",
            extra={"error": error.strerror},
        )
