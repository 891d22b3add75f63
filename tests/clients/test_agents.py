"""Agents' command lines, unchanged, against a cluster: they do their task, and each of their turns
reuses what the one before has left.

Prefill, decode, handoffs, caches, router and gateway are real, and so is the vocabulary. Only the
choice of each token is scripted (`benchmarks/agents/script.py`): agents' prompts have thousands of
tokens of the real vocabulary, and the demo model knows 1,536.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from benchmarks.agents.clients import AGENTS, Agent
from benchmarks.agents.cluster import (
    ScriptedCluster,
    Turn,
    save_agents_checkpoint,
    scripted_cluster,
)
from benchmarks.agents.run import AgentRun, run_agent

pytestmark = [pytest.mark.clients, pytest.mark.asyncio(loop_scope="session")]

PAGE_TOKENS = 16


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(
    real_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ScriptedCluster]:
    folder = tmp_path_factory.mktemp("agents")
    model = save_agents_checkpoint(folder / "model", kind="3.5", cache=real_cache)
    async with scripted_cluster(model) as cluster:
        yield cluster


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.program)
async def test_an_agent_calls_tools_in_a_session_that_stays_resident(
    agent: Agent, cluster: ScriptedCluster, clients_folder: Path, tmp_path: Path
) -> None:
    program = agent.install(clients_folder)

    async def run(*commands: str, resumes: bool = False) -> AgentRun:
        run = await run_agent(agent, program, cluster, tmp_path, commands, resumes=resumes)
        assert run.exit_status == 0, run.output
        assert len(run.conversation) == len(commands) + 1
        return run

    first = await run("echo 731 > code.txt", "cat code.txt && echo Ωmega > name.txt")
    assert (tmp_path / "work" / "code.txt").read_text() == "731\n"
    assert (tmp_path / "work" / "name.txt").read_text() == "Ωmega\n"
    assert_resident(first.conversation)
    assert "731" in str(first.conversation[-1].turn_input)

    # The template drops the reasoning before a new question; all that precedes it stays.
    resumed = await run("cp code.txt again.txt", resumes=True)
    assert (tmp_path / "work" / "again.txt").exists()
    assert_resident(resumed.conversation)
    assert resumed.conversation[0].end is not None
    kept = first.conversation[0].prompt_tokens
    if agent.program == "qwen":
        # It lists the files of its folder in the first message.
        kept -= 256
    assert resumed.conversation[0].end.usage.resident_tokens >= kept - PAGE_TOKENS


def assert_resident(turns: Sequence[Turn]) -> None:
    """Each turn after the first one computes and ships nothing of the prompt and answer before."""
    for last, turn in itertools.pairwise(turns):
        assert last.end is not None
        assert turn.end is not None
        # The answer's last token was never computed.
        before = last.prompt_tokens + last.end.usage.completion_tokens - 1
        assert turn.end.usage.resident_tokens >= before // PAGE_TOKENS * PAGE_TOKENS
        assert turn.end.usage.rerendered_tokens == 0
