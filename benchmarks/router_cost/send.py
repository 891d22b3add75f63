"""Sends its standard input as one user message, and prints the outcome and the time: `… TARGET`."""

from __future__ import annotations

import asyncio
import sys
import time

from segue.api.errors import SegueError
from segue.api.types import ChatInput, Message
from segue.sdk.client import Client


async def _send(target: str, text: str) -> str:
    chat = ChatInput(messages=(Message(role="user", content=text),))
    async with Client(target) as client:
        started_at = time.perf_counter()
        try:
            answer = await client.generate(chat, session_id="big")
            outcome = f"served, {answer.end.finish_reason}"
        except SegueError as error:
            outcome = f"{type(error).__name__}: {error}"
    return f"{time.perf_counter() - started_at:.3f} s: {outcome}"


if __name__ == "__main__":
    print(asyncio.run(_send(sys.argv[1], sys.stdin.read())))  # noqa: T201
