"""A router in a separate process, whose turns end at once: `python -m … FOLDER`.

It prints its address. For each line on standard input it prints its usage since the previous line,
as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import router.router
from router.__main__ import running
from router.config import RouterConfig
from router.turn.reported import TurnEvents
from segue.api.turn import FinishReason, TokenDelta, TurnEnd, TurnSpec

_TICK_S = 0.001


class InstantTurn:
    """Replaces `router.turn.turn.Turn`: an answer of some tokens without any worker."""

    outcome = "stop"
    failure = None
    answer = range(20)
    num_generated = len(answer)
    computed_tokens = 0

    def __init__(self, spec: TurnSpec, context: Any, **_: float) -> None:
        self.spec = spec

    def interrupt(self, error: Exception) -> None:
        pass

    async def events(self) -> AsyncGenerator[TurnEvents, None]:
        yield (TokenDelta(token_ids=tuple(self.answer), text="a short answer of a few words"),)
        yield (TurnEnd(finish_reason=FinishReason.STOP),)


class Ticker:
    """Measures how long the event loop delays its tasks."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def run(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(_TICK_S)
            self.longest_s = max(self.longest_s, time.perf_counter() - before - _TICK_S)


def _resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


async def _serve(folder: str) -> None:
    ticker = Ticker()
    async with running(RouterConfig(port=0), folder) as served:
        print(served.address, flush=True)  # noqa: T201
        ticking = asyncio.ensure_future(ticker.run())
        cpu_s = time.process_time()
        while await asyncio.to_thread(sys.stdin.readline):
            used_s = time.process_time() - cpu_s
            report = {
                "cpu_s": used_s,
                "longest_stall_s": ticker.longest_s,
                "resident_bytes": _resident_bytes(),
            }
            print(json.dumps(report), flush=True)  # noqa: T201
            ticker.longest_s, cpu_s = 0.0, time.process_time()
        ticking.cancel()


if __name__ == "__main__":
    vars(router.router)["Turn"] = InstantTurn
    asyncio.run(_serve(sys.argv[1]))
