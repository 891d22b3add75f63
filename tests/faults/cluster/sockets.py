"""TCP connections of this machine and their owners, from /proc."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ESTABLISHED, CLOSE_WAIT, LISTEN = "01", "08", "0A"

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Connection:
    local: Address
    remote: Address
    state: str
    inode: int


def connections() -> list[Connection]:
    """All TCP sockets, those of IPv6 that carry IPv4 among them."""
    return [_parsed(line.split()) for line in _lines()]


def _lines() -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            yield from Path(table).read_text().splitlines()[1:]


def _parsed(columns: list[str]) -> Connection:
    local, remote = (_address(column) for column in columns[1:3])
    return Connection(local, remote, columns[3], int(columns[9]))


def _address(column: str) -> Address:
    """An IPv4 address is four bytes, the last first; in IPv6 it is the last word."""
    host, _, port = column.partition(":")
    last = bytes.fromhex(host[-8:])[::-1]
    return ".".join(map(str, last)), int(port, 16)


def inodes_of(pid: int) -> Iterator[int]:
    """The sockets that a process has open. None if it has ended."""
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            # Descriptors are closed meanwhile.
            with contextlib.suppress(OSError):
                if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"{folder}/{name}")):
                    yield int(found[1])


def owner_of(local: Address, pids: Iterable[int]) -> int | None:
    """The process of `pids` that has a socket with this local address."""
    # Called for each new connection, of which a fault may bring about hundreds: only lines with the
    # address are parsed.
    host, port = local
    written = f"{bytes(map(int, host.split('.')))[::-1].hex().upper()}:{port:04X}"
    lines = [line.split() for line in _lines() if written in line]
    found = [c for c in map(_parsed, lines) if c.local == local and c.inode]
    inodes = {c.inode for c in found}
    return next((pid for pid in pids if inodes.intersection(inodes_of(pid))), None)


def listener_on(port: int, pids: Iterable[int]) -> int | None:
    """The process of `pids` that listens on this port."""
    inodes = {c.inode for c in connections() if c.state == LISTEN and c.local[1] == port}
    return next((pid for pid in pids if inodes.intersection(inodes_of(pid))), None)


def abandoned_by_peer(pids: Iterable[int]) -> list[Connection]:
    """Connections of these processes whose other end is closed, or does not exist.

    All peers must be on this machine.
    """
    known = connections()
    ends = {(c.local, c.remote) for c in known}
    owned = {inode for pid in pids for inode in inodes_of(pid)}
    return [
        c
        for c in known
        if c.inode in owned
        and (c.state == CLOSE_WAIT or (c.state == ESTABLISHED and (c.remote, c.local) not in ends))
    ]
