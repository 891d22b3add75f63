"""The cost of a token on a prefill worker: loaded from the host, shipped, computed.

`python -m benchmarks.host_tier`: a prompt is computed and shipped, the device's cache is emptied,
and the prompt returns with a few more tokens. Prints a row per length.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from benchmarks.agentic.emptied import InProcess, in_process
from benchmarks.agentic.modes import without_local
from benchmarks.harness.checkpoint import save_random_checkpoint
from benchmarks.harness.output import markdown
from benchmarks.harness.processes import Total, read_metrics, total_of
from benchmarks.harness.samples import median
from benchmarks.serving.cluster import answer
from benchmarks.serving.workload import Prompt
from prefill_worker.config import PrefillConfig
from segue.engine.config import EngineConfig
from segue.launch.config import Config
from segue.model.config import ModelConfig

_LENGTHS = (256, 1024, 4096)
_REPEATS = 3
_MORE_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds for one prompt."""

    computed_s: float
    shipped_s: float
    loaded_s: float


async def measure(folder: Path) -> dict[int, list[Costs]]:
    """The first prompt of each length is a warm-up."""
    config = without_local(
        Config(
            engine=EngineConfig(cache_bytes=1 << 30, host_cache_bytes=2 << 30, num_threads=1),
            prefill=PrefillConfig(pull=False),
        )
    )
    vocab_size = ModelConfig.from_folder(folder).vocab_size
    seen: dict[int, list[Costs]] = {}
    async with in_process(folder, config) as bench:
        for length in _LENGTHS:
            draw = random.Random(length)
            prompts = [
                tuple(draw.randrange(vocab_size) for _ in range(length + _MORE_TOKENS))
                for _ in range(_REPEATS + 1)
            ]
            seen[length] = [await _costs(bench, prompt) for prompt in prompts][1:]
    return seen


async def _costs(bench: InProcess, prompt: Prompt) -> Costs:
    first = await answer(bench.client, prompt[:-_MORE_TOKENS], 2)
    assert first.end is not None
    bench.forget_prefixes()
    before = _loads(bench)
    again = await answer(bench.client, prompt, 2)
    after = _loads(bench)
    assert again.end is not None
    assert after.count == before.count + 1, f"nothing was loaded: {again.end.usage}"
    return Costs(
        computed_s=first.end.timings.prefill_s,
        shipped_s=first.end.timings.transfer_s,
        loaded_s=after.sum - before.sum,
    )


def _loads(bench: InProcess) -> Total:
    bench.worker.status()
    text = read_metrics(bench.worker.presence.metrics_address)
    return total_of(text, "segue_host_load_seconds")


def _row(length: int, costs: Sequence[Costs]) -> list[str]:
    seconds = zip(*((c.computed_s, c.shipped_s, c.loaded_s) for c in costs), strict=True)
    return [f"{length:,}", *(f"{length / median(each):,.0f}" for each in seconds)]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        seen = asyncio.run(measure(save_random_checkpoint(Path(folder), is_quick=False)))
    rows = [_row(length, costs) for length, costs in seen.items()]
    typer.echo(markdown("tokens | computed tokens/s | shipped | loaded", rows))


if __name__ == "__main__":
    main()
