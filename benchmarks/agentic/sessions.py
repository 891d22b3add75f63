"""Runs the scripts against a cluster: open loop between sessions, sequential turns within each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from benchmarks.agentic.samples import TurnSample
from benchmarks.agentic.workload import Script
from benchmarks.harness.output import Report
from benchmarks.serving.cluster import answer
from segue.sdk.client import Client


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
