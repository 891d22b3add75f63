"""Connections between the ranks of a worker on several machines: TCP, with or without TLS.

A message is a pickled object, and unpickling can run arbitrary code. So each message is
authenticated with the cluster's secret before it is unpickled:

    hello      32 random bytes, from each side
    message    length, 8 bytes, big endian; code, 32 bytes; object

The code is HMAC-SHA256 of the message's number and the object. Each direction has its own key: the
HMAC of both hellos with the secret. A modified, repeated, missing or forged message therefore ends
the connection, and no message is valid on another connection.
"""

from __future__ import annotations

import contextlib
import hmac
import pickle
import queue
import secrets
import socket
import ssl
import struct
import threading
from dataclasses import dataclass
from typing import Any

from segue.parallel.streams import PlainStream, Stream, TlsStream

_HELLO = struct.Struct("!8s32s")
_MAGIC = b"segue-r1"
_HEADER = struct.Struct("!Q32s")
_NUMBER = struct.Struct("!Q")
_MAX_BYTES = 1 << 30
_MAX_FIRST_BYTES = 64
"""Limit before a process is authenticated."""
_GREET_TIMEOUT_S = 10.0
"""For TLS and the first message. It limits how long an unauthenticated process occupies a
thread."""
# A machine that loses power does not close its connections: it counts as lost after this long
# without an acknowledgement. The kernel acknowledges even if the process is busy.
_SILENT_S = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """How the ranks of a worker authenticate each other."""

    secret: bytes
    server: ssl.SSLContext | None = None
    """The leader's; both contexts or none."""
    client: ssl.SSLContext | None = None
    server_name: str = ""
    """The name in the leader's certificate; empty: the address that the follower dials."""


class MessageChannel:
    """A `Channel` over a stream. One thread receives; senders take turns."""

    def __init__(self, stream: Stream, secret: bytes, *, leads: bool) -> None:
        """Exchanges hellos. Raises OSError, EOFError."""
        self._stream = stream
        own = secrets.token_bytes(32)
        stream.send_all(_HELLO.pack(_MAGIC, own))
        magic, other = _HELLO.unpack(stream.receive(_HELLO.size))
        if magic != _MAGIC:
            raise ConnectionError("the other side is not a rank of a worker")
        both = own + other if leads else other + own
        keys = [hmac.digest(secret, name + both, "sha256") for name in (b"leader", b"follower")]
        self._send_key, self._receive_key = keys if leads else reversed(keys)
        self._num_sent = self._num_received = 0

    def send(self, message: object) -> None:
        body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        code = _code(self._send_key, self._num_sent, body)
        self._num_sent += 1
        self._stream.send_all(_HEADER.pack(len(body), code) + body)

    def recv(self, max_bytes: int = _MAX_BYTES) -> Any:
        """Raises EOFError at the end, and ConnectionError if a message is not authentic."""
        num_bytes, code = _HEADER.unpack(self._stream.receive(_HEADER.size))
        if num_bytes > max_bytes:
            raise ConnectionError(
                f"a rank sent a message of {num_bytes} bytes, over the limit of {max_bytes}"
            )
        body = self._stream.receive(num_bytes)
        if not hmac.compare_digest(code, _code(self._receive_key, self._num_received, body)):
            raise ConnectionError("a rank's message does not carry the cluster's secret")
        self._num_received += 1
        return pickle.loads(body)

    def close(self) -> None:
        self._stream.close()


def _code(key: bytes, number: int, body: bytes) -> bytes:
    return hmac.digest(key, _NUMBER.pack(number) + body, "sha256")


class Listener:
    """Accepts a leader's followers. Connections without the cluster's secret are dropped."""

    def __init__(self, host: str, credentials: Credentials) -> None:
        """Listens on a port that the system chooses. Raises OSError."""
        self.listening = listening_on(host)
        self._credentials = credentials
        self._accepted: queue.SimpleQueue[tuple[int, MessageChannel]] = queue.SimpleQueue()
        self._is_closed = False
        threading.Thread(target=self._accept, name="accept-ranks", daemon=True).start()

    @property
    def port(self) -> int:
        port: int = self.listening.getsockname()[1]
        return port

    def next(self, timeout_s: float) -> tuple[int, MessageChannel] | None:
        """The next follower's rank and connection; None after the timeout."""
        with contextlib.suppress(queue.Empty):
            return self._accepted.get(block=timeout_s > 0.0, timeout=timeout_s)
        return None

    def close(self) -> None:
        """Also closes the connections that `next` has not returned."""
        self._is_closed = True
        with contextlib.suppress(OSError):
            self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        self._drop()

    def _drop(self) -> None:
        while (left := self.next(0.0)) is not None:
            left[1].close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listening.accept()
                threading.Thread(target=self._greet, args=(connection,), daemon=True).start()

    def _greet(self, connection: socket.socket) -> None:
        given = self._credentials
        try:
            _configure(connection)
            stream = (
                TlsStream(connection, given.server, None)
                if given.server is not None
                else PlainStream(connection)
            )
            channel = MessageChannel(stream, given.secret, leads=True)
            index = channel.recv(_MAX_FIRST_BYTES)
            connection.settimeout(None)
            self._accepted.put((index, channel))
            if self._is_closed:
                self._drop()
        except (OSError, EOFError, pickle.UnpicklingError):
            # Not a rank of this worker, so not our error.
            connection.close()


def dial(host: str, port: int, index: int, credentials: Credentials) -> MessageChannel:
    """A follower's connection to its leader, as rank `index`. Raises OSError, EOFError."""
    connection = socket.create_connection((host.strip("[]"), port), _GREET_TIMEOUT_S)
    try:
        _configure(connection)
        stream: Stream = PlainStream(connection)
        if credentials.client is not None:
            name = credentials.server_name or host.strip("[]")
            stream = TlsStream(connection, credentials.client, name)
        channel = MessageChannel(stream, credentials.secret, leads=False)
        channel.send(index)
        connection.settimeout(None)
        return channel
    except BaseException:
        connection.close()
        raise


def listening_on(host: str, port: int = 0) -> socket.socket:
    """Raises OSError."""
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def _configure(connection: socket.socket) -> None:
    connection.settimeout(_GREET_TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENT_S // 3)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _SILENT_S // 3)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENT_S * 1000)
