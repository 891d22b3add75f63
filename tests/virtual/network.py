"""The processes of a virtual cluster, their connections, and what happens to their messages.

Like TCP, a connection delivers in order or breaks; it never loses or repeats a single message. It
can be slow, silent for a while (half open), or reset. Single calls, which a client may repeat, can
also be lost, answered in vain, late or twice.
"""

from __future__ import annotations

import asyncio
import enum
import random
from collections import defaultdict, deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

KEEPALIVE_S = 15.0
"""A client gives up a connection that has been silent for this long (segue/wire/channel.py)."""

Handlers = dict[str, "grpc.RpcMethodHandler[Any, Any]"]


@dataclass(eq=False)
class Process:
    """One process of a virtual cluster, whose parts run, die and stop together."""

    name: str
    address: str
    draw: random.Random
    is_dead: bool = False
    frozen_until: float = 0.0
    """As after SIGSTOP: its threads do not run, and no message leaves or arrives."""
    engine_is_stuck: bool = False
    """Its engine thread hangs in a pass; everything else goes on."""


HERE: ContextVar[Process] = ContextVar("HERE")
"""The process in which a task runs. Tasks inherit it."""


class CallFault(enum.Enum):
    LOST = "the call is lost"
    NO_ANSWER = "the call arrives, its answer is lost"
    TWICE = "the call arrives twice"
    LATE = "the call arrives when its caller has given up"


class OpenCall(Protocol):
    """A call that is under way, as the network sees it."""

    ends: frozenset[Process]

    def break_client(self, why: str) -> None: ...
    def break_server(self) -> None: ...


class HandlerServer:
    """What a service is added to in place of a `grpc.aio.Server`."""

    def __init__(self) -> None:
        self.handlers: Handlers = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same handlers again, in another form."""

    def add_registered_method_handlers(self, service: str, handlers: Handlers) -> None:
        self.handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}


class Network:
    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.slowness = 1.0
        self.bugs: list[str] = []
        """Errors of a server's method that are none of Segue's."""
        self.faults: dict[str, deque[CallFault]] = defaultdict(deque)
        """By method: the faults of its next calls."""
        self._served: dict[str, tuple[Process, Handlers]] = {}
        self._silent_until: dict[frozenset[Process], float] = {}
        self._open: dict[OpenCall, None] = {}

    def serve(self, process: Process, server: HandlerServer) -> None:
        self._served[process.address] = process, server.handlers

    def at(self, address: str) -> tuple[Process, Handlers] | None:
        """None if nothing listens there."""
        return self._served.get(address)

    def opened(self, call: OpenCall) -> None:
        self._open[call] = None

    def closed(self, call: OpenCall) -> None:
        self._open.pop(call, None)

    def latency_s(self) -> float:
        return self.draw.uniform(0.0002, 0.004) * self.slowness

    def silent_until(self, ends: frozenset[Process]) -> float:
        """Until then no message passes between the two."""
        return max(self._silent_until.get(ends, 0.0), *(end.frozen_until for end in ends))

    def silence(self, ends: frozenset[Process], seconds: float) -> None:
        """Messages wait; a connection that is silent for too long breaks."""
        loop = asyncio.get_running_loop()
        self._silent_until[ends] = max(self.silent_until(ends), loop.time() + seconds)
        self.watch(ends, seconds)

    def is_silent(self) -> bool:
        """Whether there are two processes between which no message passes."""
        now = asyncio.get_running_loop().time()
        return any(until > now for until in self._silent_until.values())

    def watch(self, ends: frozenset[Process], seconds: float) -> None:
        """The two ends cannot reach each other for that long."""
        if seconds <= KEEPALIVE_S:
            return
        loop = asyncio.get_running_loop()
        affected = [call for call in self._open if call.ends == ends]
        for call in affected:
            loop.call_later(KEEPALIVE_S, call.break_client, "ping timeout")
            loop.call_later(seconds, call.break_server)

    def freeze(self, process: Process, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        process.frozen_until = max(process.frozen_until, loop.time() + seconds)
        for ends in {call.ends for call in self._open if process in call.ends}:
            self.watch(ends, seconds)

    def reset(self, ends: frozenset[Process]) -> None:
        for call in [call for call in self._open if call.ends == ends]:
            call.break_client("Socket closed")
            call.break_server()

    def kill(self, process: Process) -> None:
        """Its sockets close; nothing listens at its address."""
        process.is_dead = True
        process.frozen_until = 0.0
        self._served.pop(process.address, None)
        for call in [call for call in self._open if process in call.ends]:
            call.break_client("Socket closed")
            call.break_server()

    def take_fault(self, method: str) -> CallFault | None:
        waiting = self.faults[method]
        return waiting.popleft() if waiting else None


class Pipe:
    """One direction of a call: messages arrive in order, each after some time."""

    def __init__(
        self, network: Network, ends: frozenset[Process], arrive: Callable[[Any], None]
    ) -> None:
        self._network = network
        self._ends = ends
        self._arrive = arrive
        self._in_flight: deque[Any] = deque()
        self._last_at = 0.0

    def send(self, item: Any) -> None:
        loop = asyncio.get_running_loop()
        self._last_at = max(self._last_at, loop.time() + self._network.latency_s())
        self._in_flight.append(item)
        loop.call_at(self._last_at, self._deliver)

    def close(self) -> None:
        """What is in flight is lost."""
        self._in_flight.clear()

    def _deliver(self) -> None:
        if not self._in_flight or any(end.is_dead for end in self._ends):
            return
        loop = asyncio.get_running_loop()
        until = self._network.silent_until(self._ends)
        if until > loop.time():
            loop.call_at(until, self._deliver)
        else:
            self._arrive(self._in_flight.popleft())
