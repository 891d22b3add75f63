"""Ordered bytes between two ranks: over TCP, with or without TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import Protocol

_RECEIVE_BYTES = 64 << 10


class Stream(Protocol):
    """Ordered bytes. One thread may send while another one receives."""

    def send_all(self, data: bytes) -> None: ...
    def receive(self, num_bytes: int) -> bytes:
        """Raises EOFError if the other side has closed."""
        ...

    def close(self) -> None: ...


class PlainStream:
    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send_all(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self, num_bytes: int) -> bytes:
        data = bytearray(num_bytes)
        view, num_received = memoryview(data), 0
        while num_received < num_bytes:
            count = self._socket.recv_into(view[num_received:])
            if not count:
                raise EOFError
            num_received += count
        return bytes(data)

    def close(self) -> None:
        # Wakes the receiving thread.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class TlsStream(PlainStream):
    """An OpenSSL connection serves one thread and would block it. So it only encrypts and decrypts
    here, under a lock; the socket is read and written outside the lock."""

    def __init__(
        self, connection: socket.socket, context: ssl.SSLContext, server_name: str | None
    ) -> None:
        """Performs the handshake. `server_name`: None on the server's side. Raises OSError,
        EOFError."""
        super().__init__(connection)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_name is None,
            server_hostname=server_name,
        )
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._ready = bytearray()
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._incoming.write(_some(self._socket))
            except ssl.SSLError:
                # Sends the alert, so that the other side knows the reason.
                with contextlib.suppress(OSError):
                    self._flush()
                raise
            else:
                break
        self._flush()

    def send_all(self, data: bytes) -> None:
        # Records are sent in the order in which they were encrypted.
        with self._sending:
            with self._lock:
                self._tls.write(data)
            self._flush()

    def receive(self, num_bytes: int) -> bytes:
        while len(self._ready) < num_bytes:
            with self._lock, contextlib.suppress(ssl.SSLWantReadError):
                data = self._tls.read(_RECEIVE_BYTES)
                if not data:
                    raise EOFError
                self._ready += data
                continue
            data = _some(self._socket)
            with self._lock:
                self._incoming.write(data)
        taken = bytes(self._ready[:num_bytes])
        del self._ready[:num_bytes]
        return taken

    def _flush(self) -> None:
        with self._lock:
            data = self._outgoing.read()
        if data:
            self._socket.sendall(data)


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(_RECEIVE_BYTES)
    if not data:
        raise EOFError
    return data
