"""Runs an agent once, and measures its turns."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.agents.clients import Agent, Where
from benchmarks.agents.cluster import ScriptedCluster, Turn
from benchmarks.agents.script import FINAL, task

_TIMEOUT_S = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRun:
    exit_status: int
    output: str
    turns: Sequence[Turn]
    """All requests of the agent, in order of arrival."""

    @property
    def conversation(self) -> list[Turn]:
        """The turns that do the task: those of the session in which it ends."""
        final = [turn for turn in self.turns if turn.text.endswith(FINAL)]
        return [turn for turn in self.turns if final and turn.session_id == final[-1].session_id]

    @property
    def side_requests(self) -> list[Turn]:
        ids = {id(turn) for turn in self.conversation}
        return [turn for turn in self.turns if id(turn) not in ids]


async def run_agent(
    agent: Agent,
    program: Path,
    cluster: ScriptedCluster,
    folder: Path,
    commands: Sequence[str],
    *,
    resumes: bool = False,
) -> AgentRun:
    """Runs the commands through the agent, in `folder`/work. With `resumes`, in the conversation of
    its last run there. Raises TimeoutError."""
    home, work = folder / "home", folder / "work"
    home.mkdir(parents=True, exist_ok=resumes)
    work.mkdir(exist_ok=resumes)
    cluster.take_turns()
    where = Where(home, cluster.url, cluster.model, task(commands), resumes)
    arguments, environment = agent.command(program, where)
    process = await asyncio.create_subprocess_exec(
        *arguments,
        cwd=work,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            output, _ = await process.communicate()
    finally:
        # What it left behind, such as a server of its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    assert process.returncode is not None
    return AgentRun(
        exit_status=process.returncode,
        output=output.decode(errors="replace"),
        turns=cluster.take_turns(),
    )
