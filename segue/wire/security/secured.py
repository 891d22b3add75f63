"""A channel to a process of the cluster: its calls carry the cluster's secret, and its connections
use the current contents of the certificate files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import grpc

from segue.security.config import Security
from segue.wire.security.credentials import channel_credentials

Options = Sequence[tuple[str, Any]]


@dataclass(slots=True, eq=False)
class _Connection:
    """A gRPC channel with one version of the files, and its callables by method."""

    channel: grpc.aio.Channel
    methods: dict[tuple[str, str], Callable[..., Any]] = field(default_factory=dict)
    num_calls: int = 0


class SecuredChannel(grpc.aio.Channel):
    """When the files change, new calls use a new connection. The old one is closed when its last
    call ends, so a turn continues with the certificate with which it started.
    """

    def __init__(self, address: str, options: Options, security: Security) -> None:
        """Raises InvalidConfig if the certificate files cannot be used."""
        self._address = address
        self._metadata = security.secret.metadata() if security.secret else ()
        tls = security.tls
        if tls is not None and tls.server_name:
            options = [*options, ("grpc.ssl_target_name_override", tls.server_name)]
        self._options = options
        self._credentials = None if tls is None else channel_credentials(tls)
        self._used: grpc.ChannelCredentials | None = None
        self._past: set[_Connection] = set()
        self._closing: set[asyncio.Future[None]] = set()
        self._current = self._connect()

    def _connect(self) -> _Connection:
        if self._credentials is None:
            channel = grpc.aio.insecure_channel(self._address, options=self._options)
        else:
            self._used = self._credentials.get()
            channel = grpc.aio.secure_channel(self._address, self._used, options=self._options)
        return _Connection(channel)

    def _connection(self) -> _Connection:
        if self._credentials is not None and self._credentials.get() is not self._used:
            before, self._current = self._current, self._connect()
            self._past.add(before)
            self._close_if_idle(before)
        return self._current

    def _close_if_idle(self, connection: _Connection) -> None:
        if connection in self._past and not connection.num_calls:
            self._past.discard(connection)
            closing = asyncio.ensure_future(connection.channel.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _method(self, kind: str, path: str, *serializers: Any, **options: Any) -> Any:
        def call(*request: Any, metadata: Any = None, **call_options: Any) -> Any:
            connection = self._connection()
            method = connection.methods.get((kind, path))
            if method is None:
                method = getattr(connection.channel, kind)(path, *serializers, **options)
                connection.methods[kind, path] = method
            started = method(
                *request, metadata=(*self._metadata, *(metadata or ())), **call_options
            )
            connection.num_calls += 1

            def ended(call: object) -> None:
                connection.num_calls -= 1
                self._close_if_idle(connection)

            started.add_done_callback(ended)
            return started

        return call

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        return self._method("unary_unary", *arguments, **options)

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        return self._method("unary_stream", *arguments, **options)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        return self._method("stream_unary", *arguments, **options)

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        return self._method("stream_stream", *arguments, **options)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._connection().channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._connection().channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._connection().channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        past, self._past = self._past, set()
        for connection in (*past, self._current):
            await connection.channel.close(grace)
        await asyncio.gather(*self._closing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
