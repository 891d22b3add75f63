"""LangChain's ChatOpenAI. It brings sixteen packages, so it has an environment of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway.conftest import Live

pytestmark = [pytest.mark.clients, pytest.mark.asyncio(loop_scope="session")]

LANGCHAIN = "langchain-openai==1.7.4"
CLIENT = Path(__file__).with_name("langchain_client.py")


@pytest.fixture(scope="session")
def python(pytestconfig: pytest.Config) -> Path:
    """An interpreter that has LangChain, installed once."""
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("segue-clients") / LANGCHAIN
    program = folder / "bin" / "python"
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", LANGCHAIN)
        subprocess.run([str(program), *install], check=True)
        (folder / "installed").touch()
    return program


async def test_langchain_invokes_streams_and_calls_tools(live: Live, python: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "LANGSMITH_TRACING": "false"}
    process = await asyncio.create_subprocess_exec(
        *(str(python), str(CLIENT), live.url), stdout=asyncio.subprocess.PIPE, env=environment
    )
    async with asyncio.timeout(120):
        output, _ = await process.communicate()
    assert process.returncode == 0
    got = json.loads(output)

    assert got["answer"] == "Noted: your city is Lisbon."
    assert got["streamed"] == "Your city is Lisbon."
    assert got["num_chunks"] > 2
    assert got["usage"]["input_token_details"]["cache_read"] > 0
    assert got["finish_reason"] == "tool_calls"
    assert got["call"] == {"name": "get_weather", "args": {"city": "Reykjavik"}}
    assert "rains" in got["last"] or "Reykjavik" in got["last"]
    assert got["last_calls"] == []
    assert got["last_usage"]["input_token_details"]["cache_read"] > 0
