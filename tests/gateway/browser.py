"""A headless Chromium over its debugging pipe: JSON messages that end with a zero byte, in on file
descriptor 3 and out on 4.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
_ANSWERS_WITHIN_S = 60.0
_FLAGS = (
    "--headless=new",
    # Tests run as root in containers, which have neither.
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-pipe",
)


@dataclass(eq=False)
class Tab:
    """One page."""

    reader: asyncio.StreamReader
    pipe: int
    session_id: str = ""
    errors: list[str] = field(default_factory=list)
    """What the page's console has as errors, and exceptions that nothing caught."""
    _numbers: count[int] = field(default_factory=lambda: count(1))

    async def call(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session_id:
            message["sessionId"] = self.session_id
        os.write(self.pipe, json.dumps(message).encode() + b"\0")
        async with asyncio.timeout(_ANSWERS_WITHIN_S):
            while True:
                news = json.loads((await self.reader.readuntil(b"\0"))[:-1])
                if news.get("id") == number:
                    assert "error" not in news, f"{method}: {news['error']}"
                    return news["result"]
                self._notice(news.get("method", ""), news.get("params", {}))

    def _notice(self, method: str, about: Any) -> None:
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(about["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "assert"):
            self.errors.append(json.dumps(about["args"]))
        elif method == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(json.dumps(about["entry"]))

    async def evaluate(self, expression: str) -> Any:
        done = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def wait_until(self, expression: str, timeout_s: float = 30.0) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not await self.evaluate(expression):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            text = await self.evaluate("document.body.innerText")
            raise AssertionError(f"not true in {timeout_s:g} s: {expression}\n{text}") from None

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.wait_until(f"location.href === '{url}' && document.readyState === 'complete'")

    async def show_as(self, *, width: int, height: int, scheme: str) -> None:
        """`scheme`: light or dark."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await self.call("Emulation.setEmulatedMedia", features=[feature])

    async def png(self) -> bytes:
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])


@contextlib.asynccontextmanager
async def tab() -> AsyncIterator[Tab]:
    """An empty page in a browser of its own, which ends with the block."""
    assert CHROMIUM is not None
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # Bash moves the pipes to the numbers that the browser expects; dash cannot name fd 10.
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", f'exec "$0" "$@" 3<&{in_read} 4>&{out_write}', CHROMIUM, *_FLAGS),
            f"--user-data-dir={folder}",
            "about:blank",
            pass_fds=(in_read, out_write),
            stderr=asyncio.subprocess.DEVNULL,
        )
        os.close(in_read)
        os.close(out_write)
        reader = asyncio.StreamReader(limit=64 << 20)
        loop = asyncio.get_running_loop()
        with os.fdopen(out_read, "rb") as out:
            transport, _ = await loop.connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), out
            )
            page = Tab(reader, in_write)
            try:
                made = await page.call("Target.createTarget", url="about:blank")
                attached = await page.call(
                    "Target.attachToTarget", targetId=made["targetId"], flatten=True
                )
                page.session_id = attached["sessionId"]
                for domain in ("Page", "Runtime", "Log"):
                    await page.call(f"{domain}.enable")
                yield page
            finally:
                os.close(in_write)
                transport.close()
                process.kill()
                await process.wait()
