"""`python -m benchmarks.agents`: what each turn of four agents' command lines costs the cluster.

Installs them with npm, and runs two tasks of several tool calls in one conversation through each.
Prints a table; the last line of stdout is one JSON object with every number.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.agents.clients import AGENTS
from benchmarks.agents.cluster import save_agents_checkpoint, scripted_cluster
from benchmarks.agents.run import AgentRun, run_agent
from benchmarks.agents.show import agents_table, numbers_of
from benchmarks.harness.environment import this_environment
from benchmarks.harness.output import progress, show, show_json

_WIDTH = 110
_TASKS = (
    (
        "printf 'one\\ntwo\\n' > numbers.txt",
        "cat numbers.txt; seq 200",
        "wc -l numbers.txt && ls -a",
        "echo three >> numbers.txt; sort -r numbers.txt",
        "cat missing.txt",
    ),
    ("cp numbers.txt copy.txt", "ls"),
)
"""The second one continues the conversation of the first, in a new process."""


def main(
    clients: Annotated[
        Path | None, typer.Option(help="Where npm installs; default: a temporary folder.")
    ] = None,
    template: Annotated[str, typer.Option(help="A kind of tests/real_templates.py.")] = "3.5",
) -> None:
    """Runs qwen-code, opencode, Codex and Claude Code. Needs npm."""
    with tempfile.TemporaryDirectory(prefix="segue-agents-") as folder:
        runs = asyncio.run(_run(Path(folder), clients or Path(folder) / "clients", template))
    show([agents_table(runs.items())], width=_WIDTH)
    result = {
        "environment": asdict(this_environment()),
        "template": template,
        "agents": {
            name: [
                {
                    "exit_status": run.exit_status,
                    "side_requests": list(map(numbers_of, run.side_requests)),
                    "turns": list(map(numbers_of, run.conversation)),
                }
                for run in tasks
            ]
            for name, tasks in runs.items()
        },
    }
    show_json(result)


async def _run(folder: Path, clients: Path, template: str) -> dict[str, list[AgentRun]]:
    report = progress()
    programs = {}
    for agent in AGENTS:
        report(f"npm install {agent.package}")
        programs[agent.name] = agent.install(clients)
    model = save_agents_checkpoint(folder / "model", kind=template, cache=folder / "cache")
    runs: dict[str, list[AgentRun]] = {agent.name: [] for agent in AGENTS}
    async with scripted_cluster(model) as cluster:
        for agent in AGENTS:
            program, place = programs[agent.name], folder / agent.program
            for index, commands in enumerate(_TASKS):
                run = await run_agent(agent, program, cluster, place, commands, resumes=index > 0)
                report(f"{agent.name}: exit status {run.exit_status}")
                runs[agent.name].append(run)
    return runs


if __name__ == "__main__":
    typer.run(main)
