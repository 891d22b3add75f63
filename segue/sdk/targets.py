"""The routers of a client: a connection to each, and their order for each session.

A session belongs to the router that rendezvous hashing of its id ranks first. If that router is
unreachable, the next in rank serves the session until the connection is up again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import grpc

from segue.api.errors import Cancelled, DeadlineExceeded, InvalidRequest, Unavailable
from segue.security.config import OPEN, Security
from segue.v1.documents_pb2_grpc import DocumentsStub
from segue.v1.session_pb2_grpc import SessionsStub
from segue.wire.addresses import split_targets
from segue.wire.channel import channel_to
from segue.wire.status import rpc_errors
from segue.wire.streams.generate import TurnStreams

if TYPE_CHECKING:
    # For type annotations only: the generated modules do not have these names at run time.
    from segue.v1.documents_pb2_grpc import DocumentsAsyncStub
    from segue.v1.session_pb2_grpc import SessionsAsyncStub

_IF_REFUSED = "start one with `segue serve`, or name its address with --target"
_CLOSES = "it closes each connection before any answer"
_IF_CLOSED = {
    # By what the client has: TLS, a certificate.
    (False, False): f"{_CLOSES}: it probably uses TLS: name its authority with --tls-ca FILE",
    (True, False): (
        f"{_CLOSES}: it probably asks for a certificate: show one with --tls-cert FILE "
        "--tls-key FILE"
    ),
    (True, True): (
        f"{_CLOSES}: it probably refuses this certificate, which has expired or is of another "
        "authority: use one of the cluster's clients"
    ),
}
_IF_UNSERVED = (
    "this is another server, such as a worker, not the router: use the router's address, which "
    "`segue serve` prints"
)

_ASK_AGAIN_S = 0.1

Reply = TypeVar("Reply")


class RouterLink:
    """The connection to one router."""

    def __init__(self, target: str, security: Security) -> None:
        self.target = target
        self.peer = f"router {target}"
        tls = security.tls
        self._if_closed = _IF_CLOSED[tls is not None, bool(tls and tls.certificate)]
        self.channel = channel_to(target, security)
        self.stub: SessionsAsyncStub = SessionsStub(self.channel)
        self.documents: DocumentsAsyncStub = DocumentsStub(self.channel)
        self.turns = TurnStreams(self.stub, self.peer, self.errors)
        self.was_reached = False
        """A router has answered there."""
        self._is_lost = False

    @contextlib.contextmanager
    def errors(self, timeout_s: float | None = None) -> Iterator[None]:
        try:
            with rpc_errors(
                self.peer,
                if_refused=_IF_REFUSED,
                if_unserved=_IF_UNSERVED,
                if_closed=self._if_closed,
            ):
                yield
        except Unavailable as error:
            self._is_lost = self._is_lost or error.is_unreachable
            raise
        except Cancelled as error:
            # A router that stops cancels the calls that are left. A cancelled turn has no error.
            self._is_lost = True
            raise Unavailable.unreachable(f"{self.peer} ended the call: it stops") from error
        except DeadlineExceeded as error:
            # Either gRPC or the router may notice first: both get the same message.
            limit = "the router's own limit" if timeout_s is None else f"{timeout_s:g} s"
            raise DeadlineExceeded(f"{self.peer}: no complete answer within {limit}") from error

    def answered(self) -> None:
        self.was_reached, self._is_lost = True, False

    @property
    def is_up(self) -> bool:
        """Not known to be unreachable. A lost router is reconnected in the background."""
        if not self._is_lost:
            return True
        return self.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY

    async def close(self) -> None:
        await self.turns.close()
        await self.channel.close()


class Targets:
    """One event loop owns it."""

    def __init__(self, targets: str | Sequence[str], security: Security = OPEN) -> None:
        """Raises InvalidRequest, and InvalidConfig for certificate files that cannot be used."""
        names = split_targets(targets)
        _require_loop()
        self.links = [RouterLink(name, security) for name in names]
        self.is_closed = False

    def __str__(self) -> str:
        return ",".join(link.target for link in self.links)

    def ranked(self, key: str) -> list[RouterLink]:
        """All routers in the order of preference for the session `key`: those that are up first."""
        if len(self.links) == 1:
            return self.links[:]
        ranked = sorted(self.links, key=lambda link: _weight(link.target, key), reverse=True)
        return sorted(ranked, key=lambda link: not link.is_up)

    def choose(self, key: str, tried: Collection[RouterLink]) -> RouterLink:
        """The router for the next attempt of a turn that failed on those that it has `tried`."""
        return min(self.ranked(key), key=lambda link: link in tried)

    async def ask(
        self,
        key: str,
        call: Callable[[RouterLink], Awaitable[Reply]],
        *,
        timeout_s: float,
        may_repeat: bool = True,
        waits: bool = False,
    ) -> Reply:
        """The reply of the first reachable router. Without `may_repeat`, a call that may have been
        carried out is not repeated. With `waits`, if no router is reachable but one was before,
        asks again until `timeout_s`: it may be restarting."""
        links = self.ranked(key)
        until = time.monotonic() + timeout_s
        while True:
            link = links.pop(0)
            try:
                with link.errors(timeout_s):
                    reply = await call(link)
            except Unavailable as error:
                may_go_on = error.is_unreachable and (may_repeat or not error.was_sent)
                if not may_go_on or self.is_closed:
                    raise
                if links:
                    continue
                were_reached = any(link.was_reached for link in self.links)
                if not (waits and were_reached and time.monotonic() < until):
                    raise
                await asyncio.sleep(_ASK_AGAIN_S)
                links = self.ranked(key)
                continue
            link.answered()
            return reply

    async def ask_all(
        self, call: Callable[[RouterLink], Awaitable[Reply]], *, timeout_s: float
    ) -> list[Reply]:
        """The replies of all reachable routers. Raises the first error if there are none."""

        async def ask(link: RouterLink) -> Reply:
            with link.errors(timeout_s):
                reply = await call(link)
            link.answered()
            return reply

        results = await asyncio.gather(*map(ask, self.links), return_exceptions=True)
        replies = [one for one in results if not isinstance(one, BaseException)]
        failures = [one for one in results if isinstance(one, BaseException)]
        refusals = [one for one in failures if not isinstance(one, Unavailable | DeadlineExceeded)]
        if refusals or not replies:
            raise (refusals or failures)[0]
        return replies

    async def close(self) -> None:
        self.is_closed = True
        for link in self.links:
            await link.close()


def _weight(target: str, key: str) -> bytes:
    return hashlib.blake2b(f"{target} {key}".encode(errors="surrogatepass"), digest_size=8).digest()


def _require_loop() -> None:
    """Without a running loop, gRPC would use one that never runs, or raise its own error."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise InvalidRequest(
            "a Client must be created inside a running event loop, and none is running: create it "
            "in an async function, `async with Client(…) as client`, that asyncio.run runs"
        ) from None
