"""A client against `segue serve` as users start it: Ray, router, gateway and workers in processes
of their own, and the demo model, whose answers nothing scripts.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.clients

AGENT = Path(__file__).with_name("openai_agent.py")
# One thread each: the client shares the machine.
SETTINGS = "[engine]\nnum_threads = 1\ncache_bytes = 67108864\n"
PAGE_TOKENS = 16


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The gateway's URL."""
    (folder / "segue.toml").write_text(SETTINGS)
    options = ("--port", "0", "--http-port", "0", "--config", str(folder / "segue.toml"))
    with (folder / "progress").open("w") as progress:
        server = subprocess.Popen(
            [str(Path(sys.executable).with_name("segue")), "serve", *options],
            stdout=subprocess.PIPE,
            stderr=progress,
            text=True,
        )
        assert server.stdout is not None
        try:
            ready = server.stdout.readline()
            told = (folder / "progress").read_text()
            assert ready.startswith("ready at "), told
            found = re.search(r"HTTP at (http://\S+),", told)
            assert found is not None, told
            yield found[1]
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
            server.stdout.close()


def test_an_agent_calls_a_tool_and_its_second_request_reuses_the_first(tmp_path: Path) -> None:
    with served(tmp_path) as url:
        done = subprocess.run(
            [sys.executable, str(AGENT), url],
            stdout=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            timeout=120,
            check=False,
        )
    assert done.returncode == 0
    got = json.loads(done.stdout)
    _, called, result, answer = got["messages"]
    (call,) = called["tool_calls"]

    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Reykjavik"}
    assert result["tool_call_id"] == call["id"]
    assert answer["content"] == "In Reykjavik it is 7 degrees and cloudy."
    first, second = got["usage"]
    reused = second["prompt_tokens_details"]["cached_tokens"]
    assert reused >= first["prompt_tokens"] // PAGE_TOKENS * PAGE_TOKENS
