"""One of several gateway processes: `python -m segue.gateway.serving.child`, by its supervisor.

Its `Orders` come through stdin, which stays open while the supervisor lives. It writes one line to
stdout when it serves, and another one when an operator asks for a drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import sys

import uvloop

from segue.gateway.__main__ import running
from segue.gateway.serving.http_server import listening
from segue.gateway.serving.orders import DRAIN, SERVING, Orders
from segue.process.heap import settle_heap
from segue.process.telemetry import setup_logging


async def _serve(orders: Orders) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def on_input() -> None:
        if not os.read(sys.stdin.fileno(), 1):
            # The supervisor has exited: nothing else would stop this process.
            loop.remove_reader(sys.stdin.fileno())
            stop.set()

    loop.add_reader(sys.stdin.fileno(), on_input)
    with contextlib.closing(listening(orders.config, is_shared=True)) as listener:
        async with running(
            orders.config, orders.router, orders.security, listener=listener
        ) as gateway:
            settle_heap()
            os.write(sys.stdout.fileno(), SERVING)
            asking = asyncio.ensure_future(gateway.drain_asked())
            # All processes drain together, when their supervisor decides.
            asking.add_done_callback(_tell)
            await stop.wait()
            asking.cancel()


def _tell(asking: asyncio.Future[None]) -> None:
    if not asking.cancelled():
        with contextlib.suppress(BrokenPipeError):
            os.write(sys.stdout.fileno(), DRAIN)


def main() -> None:
    orders = pickle.load(sys.stdin.buffer)
    assert isinstance(orders, Orders)
    setup_logging(orders.name, file=orders.log)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(orders))


if __name__ == "__main__":
    main()
