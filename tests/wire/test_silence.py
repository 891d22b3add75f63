"""Peers that stop without a word, and clients that do not read."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from segue.api import errors
from segue.v1 import session_pb2 as pb
from segue.v1.session_pb2_grpc import SessionsServicer, SessionsStub, add_SessionsServicer_to_server
from segue.wire import status
from segue.wire.channel import channel_to
from segue.wire.server import Services, serving
from segue.wire.status import rpc_errors


class Endless(SessionsServicer):
    """Sends without end, or once and then nothing."""

    def __init__(self, message: pb.GenerateEvent) -> None:
        self.message = message
        self.num_sent = 0
        self.has_left = asyncio.Event()

    async def Generate(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateEvent]:
        try:
            yield self.message
            if request.text == "once":
                await asyncio.Event().wait()
            while True:
                self.num_sent += 1
                yield self.message
        finally:
            self.has_left.set()

    def services(self, address: str) -> Services:
        add = add_SessionsServicer_to_server
        return [("segue.v1.Sessions", lambda server: add(self, server))]


async def test_a_client_that_does_not_read_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its call holds is freed, long before its deadline."""
    monkeypatch.setattr(status, "UNREAD_S", 0.5)
    message = pb.GenerateEvent(delta=pb.TokenDelta(token_ids=[1] * 10_000))
    servicer = Endless(message)
    async with (
        serving("127.0.0.1", 0, servicer.services) as server,
        channel_to(server.address) as channel,
    ):
        call = SessionsStub(channel).Generate(pb.GenerateRequest(text="on"), timeout=600)
        await call.read()
        async with asyncio.timeout(20):
            await servicer.has_left.wait()

        with pytest.raises(errors.DeadlineExceeded, match="does not read its stream"):
            await read_all(call)
    # Some was on its way: the buffers of gRPC and of the kernel.
    assert 0 < servicer.num_sent < 5_000


async def read_all(call: Any) -> None:
    with rpc_errors("router"):
        while await call.read():
            pass


@pytest.mark.slow
async def test_a_peer_that_stops_is_given_up_soon() -> None:
    """A process that got SIGSTOP still accepts connections and acknowledges every byte."""
    code = """
import asyncio
from tests.wire.test_silence import Endless
from segue.v1 import session_pb2 as pb
from segue.wire.server import serving

async def main():
    servicer = Endless(pb.GenerateEvent())
    async with serving("127.0.0.1", 0, servicer.services) as server:
        print(server.address, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        async with channel_to(address) as channel:
            call = SessionsStub(channel).Generate(pb.GenerateRequest(text="once"))
            await call.read()
            os.kill(process.pid, signal.SIGSTOP)
            stopped_at = time.monotonic()

            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call.read()

        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert time.monotonic() - stopped_at < 20.0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
