"""The server's side of the cluster's secret: internal services refuse callers without it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from segue.api.errors import Unauthenticated
from segue.security.secret import ENVIRONMENT, METADATA, ClusterSecret
from segue.wire.status import kind_of

_INTERNAL = "/segue.internal."


class SecretInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls of internal services without the secret, before their messages are read.

    Clients' services, health and reflection stay open.
    """

    def __init__(self, secret: ClusterSecret) -> None:
        self._secret = secret

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(_INTERNAL):
            return handler
        given = [v for k, v in handler_call_details.invocation_metadata or () if k == METADATA]
        if len(given) == 1 and self._secret.matches(given[0]):
            return handler
        came = "another one" if given else "none"
        return _refused(
            handler,
            f"{method} is for processes of this cluster: expected its secret, got {came}. Start "
            f"all processes with the same --cluster-secret-file or {ENVIRONMENT}",
        )


def _refused(handler: Any, message: str) -> Any:
    """A handler of the same kind that raises; `ErrorInterceptor` answers with it."""

    async def refuse(request: Any, context: Any) -> Any:
        raise Unauthenticated(message)

    async def refuse_stream(request: Any, context: Any) -> Any:
        raise Unauthenticated(message)
        yield

    _, make = kind_of(handler)
    # Without a deserializer, so that the message is not even decoded.
    return make(refuse_stream if handler.response_streaming else refuse)
