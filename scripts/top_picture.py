"""Draws `segue top` of a running cluster as an SVG: `python -m scripts.top_picture TARGET FILE`."""

from __future__ import annotations

import asyncio
import io
import sys
from pathlib import Path

from rich.console import Console

from segue.cli.live.frame import Trail, frame
from segue.sdk.client import Client

_WIDTH = 110
_FRAMES = 25


async def draw(target: str, file: Path) -> None:
    """Watches for half a minute, for the line of throughput."""
    trail = Trail()
    async with Client(target) as client:
        for number in range(_FRAMES):
            cluster = await client.status()
            if number < _FRAMES - 1:
                trail = trail.after(cluster)
                await asyncio.sleep(1.0)
    console = Console(width=_WIDTH, record=True, file=io.StringIO(), force_terminal=True)
    console.print(frame(cluster, trail, width=_WIDTH))
    file.write_text(console.export_svg(title="segue top"), "utf-8")


if __name__ == "__main__":
    asyncio.run(draw(sys.argv[1], Path(sys.argv[2])))
