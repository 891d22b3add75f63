"""One run: each mode gets a fresh cluster on the same checkpoint, and the same requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.agentic.modes import Mode, config_of
from benchmarks.agentic.samples import TurnSample
from benchmarks.agentic.workload import Script, Workload
from benchmarks.harness.output import Report
from benchmarks.serving.cluster import answer
from segue.launch.cluster import running_cluster
from segue.launch.config import Config
from segue.sdk.client import Client

# A single one depends on what else the machine does in its first or last seconds.
_NUM_ALONE = 3
# The pause of a session that has the cluster to itself: just enough for the last turn to settle.
_ALONE_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The measurements of one mode."""

    alone: list[TurnSample]
    """Sessions one after the other, without waiting: the cost of a turn."""
    together: list[TurnSample]
    """The workload, in which sessions wait for each other."""


def run_modes(
    modes: Sequence[Mode], config: Config, workload: Workload, *, vocab_size: int, report: Report
) -> dict[Mode, Measured]:
    measured: dict[Mode, Measured] = {}
    for mode in modes:

        def report_stage(stage: str, mode: Mode = mode) -> None:
            report(f"{mode}: {stage}")

        with running_cluster(config_of(mode, config), report_stage) as cluster:
            report_stage("warming up")
            measured[mode] = asyncio.run(
                _ask(cluster.address, workload, vocab_size=vocab_size, report=report_stage)
            )
    return measured


async def _ask(address: str, workload: Workload, *, vocab_size: int, report: Report) -> Measured:
    num_tokens = workload.answer_tokens
    alone = replace(
        workload,
        sessions=1,
        later_turns=(max(workload.later_turns),) * 2,
        tool_s=_ALONE_PAUSE_S,
        think_s=_ALONE_PAUSE_S,
    )
    # Other seeds give other tokens, which no cache has.
    practice = replace(alone, later_turns=(2, 2), seed=workload.seed + 1)
    async with Client(address) as client:

        async def run(load: Workload, prefix: str) -> list[TurnSample]:
            scripts = load.scripts(vocab_size=vocab_size, prefix=prefix)
            return await run_sessions(client, scripts, answer_tokens=num_tokens, report=report)

        # Warms up connections, allocations and untouched pages.
        await run(practice, "practice")
        one_by_one: list[TurnSample] = []
        for number in range(_NUM_ALONE):
            load = replace(alone, seed=workload.seed + 2 + number)
            one_by_one += await run(load, f"alone-{number}")
        return Measured(alone=one_by_one, together=await run(workload, "agent"))


async def run_sessions(
    client: Client, scripts: Sequence[Script], *, answer_tokens: int, report: Report
) -> list[TurnSample]:
    """All turns of all sessions, in order within each session."""

    async def one(script: Script) -> list[TurnSample]:
        await asyncio.sleep(script.starts_at_s)
        samples = await _converse(client, script, answer_tokens=answer_tokens)
        report(f"{script.name} has ended")
        return samples

    samples_of_sessions = await asyncio.gather(*(one(script) for script in scripts))
    return [sample for samples in samples_of_sessions for sample in samples]


async def _converse(client: Client, script: Script, *, answer_tokens: int) -> list[TurnSample]:
    """Each prompt is the whole conversation so far, plus the script's next tokens."""
    samples: list[TurnSample] = []
    history: tuple[int, ...] = ()
    for index, turn in enumerate(script.turns, start=1):
        await asyncio.sleep(turn.pause_s)
        prompt = (*history, *turn.new_tokens)
        answered = await answer(client, prompt, answer_tokens, session_id=script.name)
        samples.append(TurnSample.of(script.name, index, len(history), answered))
        history = (*prompt, *answered.token_ids)
    return samples
