"""Calls every method of a gRPC server with nearly valid messages, and reports the statuses.

Services and methods come from the descriptors of the wire modules and from the server's own health
service, valid messages from recorded traffic of real clients: a new method is attacked as soon as
a client calls it.
"""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

import segue.internal.v1
import segue.v1
from segue.api.errors import SegueError
from segue.wire.channel import channel_to
from segue.wire.error_details import error_from_wire
from segue.wire.status import ErrorInterceptor
from tests.fuzz.mutation import MessagePool, Mutator

Status = grpc.StatusCode
NEVER = (Status.INTERNAL, Status.UNKNOWN, Status.DATA_LOSS, Status.UNIMPLEMENTED)
# The error of gRPC's own client if it was still sending to a method that had ended.
_OF_CLIENT = "Internal error from Core"
# grpcio's health service does not implement it.
_NOT_SERVED = "grpc.health.v1.Health.List"
_AT_ONCE = 8
_KEPT = 50


class Recorder(ErrorInterceptor):
    """The interceptor of our servers, extended to record incoming messages."""

    recorded: ClassVar[dict[str, list[bytes]]] = {}

    @classmethod
    def so_far(cls) -> dict[str, list[bytes]]:
        return {method: list(messages) for method, messages in cls.recorded.items()}

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await super().intercept_service(continuation, handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        messages = self.recorded.setdefault(handler_call_details.method, [])
        deserialize = handler.request_deserializer

        def recorded(octets: bytes) -> Any:
            if len(messages) < _KEPT:
                messages.append(octets)
            return deserialize(octets)

        return handler._replace(request_deserializer=recorded)


def all_services() -> Iterator[ServiceDescriptor]:
    """The services of every wire module, and the health service of gRPC."""
    yield from health_pb2.DESCRIPTOR.services_by_name.values()
    for package in (segue.v1, segue.internal.v1):
        for module in pkgutil.iter_modules(package.__path__):
            if module.name.endswith("_pb2"):
                wire = importlib.import_module(f"{package.__name__}.{module.name}")
                yield from wire.DESCRIPTOR.services_by_name.values()


async def services_at(channel: grpc.aio.Channel) -> list[ServiceDescriptor]:
    """The services that the server lists."""
    health = health_pb2_grpc.HealthStub(channel)
    found = []
    for service in all_services():
        if service.file.name == health_pb2.DESCRIPTOR.name:
            found.append(service)
            continue
        try:
            await health.Check(health_pb2.HealthCheckRequest(service=service.full_name))
        except grpc.aio.AioRpcError as error:
            if error.code() is not Status.NOT_FOUND:
                raise
        else:
            found.append(service)
    return found


class Attack:
    """An attack on one server."""

    def __init__(
        self,
        address: str,
        seed: int,
        recorded: dict[str, list[bytes]],
        pool: MessagePool | None = None,
    ) -> None:
        """`pool`: values shared with attacks on other servers, so that a value from one server's
        answer is sent to another.
        """
        self.address = address
        self.outcomes: dict[str, Counter[Status]] = defaultdict(Counter)
        self.bad: list[str] = []
        self._draw = random.Random(seed)
        self._recorded = recorded
        self._pool = pool or MessagePool()
        self._mutator = Mutator(self._pool, self._draw)

    async def run(
        self, num_messages: int, *, skip: tuple[str, ...] = (), only: tuple[str, ...] = ()
    ) -> None:
        """Sends the same number of messages to each method, in random order. `skip` and `only` have
        names of services and methods.
        """
        async with channel_to(self.address) as channel:
            methods = [
                method
                for service in await services_at(channel)
                for method in service.methods
                if not {service.name, method.name} & {*skip}
                if not only or {service.name, method.name} & {*only}
            ]
            assert methods, f"no service of ours at {self.address}"
            self._learn(methods)
            calls = [method for method in methods for _ in range(num_messages)]
            self._draw.shuffle(calls)
            gate = asyncio.Semaphore(_AT_ONCE)
            for start in range(0, len(calls), 1000):
                some = calls[start : start + 1000]
                await asyncio.gather(*(self._call(channel, method, gate) for method in some))

    async def call(
        self, channel: grpc.aio.Channel, method: MethodDescriptor, message: Message
    ) -> None:
        """Calls one method with this message, or with a slightly changed one."""
        if self._draw.random() < 0.7:
            self._mutator.mutate(message)
        octets = message.SerializeToString()
        request = [octets] if method.client_streaming else octets
        status, details = await self._status_of(channel, method, request, 2.0)
        self._count(method, status, details)

    @property
    def num_sent(self) -> int:
        return sum(count.total() for count in self.outcomes.values())

    def unexpected(self) -> list[str]:
        """Statuses that indicate a bug, with the method and the error text."""
        return self.bad

    def _learn(self, methods: list[MethodDescriptor]) -> None:
        for method in methods:
            for octets in self._recorded.get(path_of(method), []):
                message = method.input_type._concrete_class()
                message.ParseFromString(octets)
                self._pool.add(message)

    def _request(self, method: MethodDescriptor) -> bytes:
        message: Message = method.input_type._concrete_class()
        if recorded := self._recorded.get(path_of(method)):
            message.ParseFromString(self._draw.choice(recorded))
        if self._draw.random() < 0.95:
            self._mutator.mutate(message)
        octets = message.SerializeToString()
        return self._mutator.damage(octets) if self._draw.random() < 0.1 else octets

    def _requests(self, method: MethodDescriptor) -> list[bytes]:
        """The messages of a request stream: some valid, some invalid, in any order, some twice, or
        none at all.
        """
        recorded = self._recorded.get(path_of(method), [])
        whole = recorded[: self._draw.randrange(4)]
        wrong = [self._request(method) for _ in range(self._draw.randrange(4))]
        messages = [*whole, *wrong, *self._draw.sample(wrong, min(1, len(wrong)))]
        if self._draw.random() < 0.5:
            self._draw.shuffle(messages)
        return messages

    async def _call(
        self, channel: grpc.aio.Channel, method: MethodDescriptor, gate: asyncio.Semaphore
    ) -> None:
        async with gate:
            timeout_s = self._draw.choice((0.05, 0.3, 1.0))
            request = self._requests(method) if method.client_streaming else self._request(method)
            status, details = await self._status_of(channel, method, request, timeout_s)
        self._count(method, status, details)

    def _count(self, method: MethodDescriptor, status: Status, details: str) -> None:
        if details == _OF_CLIENT:
            status = Status.CANCELLED
        self.outcomes[method.full_name][status] += 1
        is_missing = status is Status.UNIMPLEMENTED and method.full_name == _NOT_SERVED
        if status in NEVER and not is_missing:
            self.bad.append(f"{method.full_name}: {status.name}: {details[:300]}")

    async def _status_of(
        self,
        channel: grpc.aio.Channel,
        method: MethodDescriptor,
        request: bytes | list[bytes],
        timeout_s: float,
    ) -> tuple[Status, str]:
        sends = "stream" if method.client_streaming else "unary"
        answers = "stream" if method.server_streaming else "unary"
        multicall = getattr(channel, f"{sends}_{answers}")(path_of(method))
        sent = _each(request) if isinstance(request, list) else request
        call = multicall(sent, timeout=timeout_s)
        try:
            if method.server_streaming:
                for _ in range(self._draw.choice((1, 3, 1000))):
                    reply = await call.read()
                    if not isinstance(reply, bytes):
                        break
                    self._receive(method, reply)
                call.cancel()
            else:
                self._receive(method, await call)
        except grpc.aio.AioRpcError as error:
            return error.code(), str(error.details())
        except asyncio.CancelledError:
            return Status.CANCELLED, ""
        return Status.OK, ""

    def _receive(self, method: MethodDescriptor, octets: bytes) -> None:
        reply = method.output_type._concrete_class()
        try:
            reply.ParseFromString(octets)
        except DecodeError:
            self.bad.append(f"{method.full_name} answered with an undecodable message")
            return
        self._pool.add(reply)
        for event in getattr(reply, "events", ()):
            if event.HasField("error") and type(error_from_wire(event.error)) is SegueError:
                self.bad.append(f"{method.full_name}: unexpected: {event.error.message[:300]}")


def method_named(full_name: str) -> MethodDescriptor:
    """A method by its name, such as segue.internal.v1.PrefillWorker.Turns."""
    methods = {m.full_name: m for service in all_services() for m in service.methods}
    return methods[full_name]


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


async def _each(messages: list[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message
        await asyncio.sleep(0)
