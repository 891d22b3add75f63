"""One run: start both sides, run rounds of the same prompts, then measure the router."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.harness.ceilings import (
    Machine,
    ModelCost,
    measure_machine,
    model_cost,
    shipped_bytes,
)
from benchmarks.harness.environment import Environment
from benchmarks.harness.output import Report
from benchmarks.harness.processes import read_metrics, total_of
from benchmarks.harness.samples import Answered
from benchmarks.serving.cluster import WithoutRouter, answer, answer_together
from benchmarks.serving.peer import Transformers
from benchmarks.serving.result import Alone, Pair, Result, RouterCost, Together
from benchmarks.serving.workload import Prompt, Workload
from segue.cache.layout import CacheLayout
from segue.engine.served_model import ServedModel
from segue.launch.cluster import Cluster
from segue.model.config import ModelConfig
from segue.sdk.client import Client

_DISPATCH = "segue_router_dispatch_seconds"
_RELAY = "segue_router_relay_seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Both sides of the comparison, and the costs that are known in advance."""

    cluster: Cluster
    peer: Transformers
    layout: CacheLayout
    cost: ModelCost
    vocab_size: int
    workload: Workload

    @classmethod
    def of(
        cls, folder: Path, *, cluster: Cluster, peer: Transformers, workload: Workload
    ) -> Subject:
        model = ModelConfig.from_folder(folder)
        layout = ServedModel.of(folder, cluster.config.engine).layout
        return cls(
            cluster=cluster,
            peer=peer,
            layout=layout,
            cost=model_cost(
                peer.named_weights(),
                layout,
                is_tied=model.tie_word_embeddings,
                expert_share=model.moe.experts_per_token / model.moe.num_experts
                if model.moe
                else 1.0,
            ),
            vocab_size=model.vocab_size,
            workload=workload,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    machine: Machine
    alone: dict[int, list[Pair]]
    """By prompt length."""
    together: dict[int, list[Pair]]
    """By number of turns."""
    router_pairs: list[tuple[Answered, Answered]]
    dispatch_s: float
    relay_s: float


class Asker:
    """Sends requests to one side or the other, never to both at the same time.

    The cluster never gets a prompt twice: a cached turn must not help a later one.
    """

    def __init__(self, subject: Subject, client: Client) -> None:
        self._subject = subject
        self._client = client
        self._numbers = itertools.count()

    def prompts(self, num_tokens: int, count: int) -> list[Prompt]:
        """New prompts. The same calls in the same order give the same prompts in every run."""
        return [
            self._subject.workload.prompt(
                num_tokens, number=next(self._numbers), vocab_size=self._subject.vocab_size
            )
            for _ in range(count)
        ]

    async def warm_up(self) -> None:
        """Warms up connections, allocations and untouched pages, on both sides."""
        workload = self._subject.workload
        longest = self.prompts(max(workload.prompt_lengths), 1)
        await self.both(longest, workload.answer_tokens, round_number=0)
        many = self.prompts(workload.together_prompt_tokens, workload.max_turns)
        await self.both(many, 2, round_number=0)

    async def both(self, prompts: Sequence[Prompt], num_tokens: int, *, round_number: int) -> Pair:
        if round_number % 2:
            peer = self._subject.peer.answer(prompts, num_tokens)
            return Pair(segue=await answer_together(self._client, prompts, num_tokens), peer=peer)
        ours = await answer_together(self._client, prompts, num_tokens)
        return Pair(segue=ours, peer=self._subject.peer.answer(prompts, num_tokens))

    async def through_and_past_router(self) -> list[tuple[Answered, Answered]]:
        workload = self._subject.workload
        without_router = WithoutRouter(await self._client.status(), self._subject.cluster.security)
        pairs = []
        for _ in range(workload.router_pairs + 1):
            first, second = self.prompts(min(workload.prompt_lengths), 2)
            routed = await answer(self._client, first, workload.answer_tokens)
            direct = await without_router.answer(second, workload.answer_tokens)
            pairs.append((routed, direct))
        await without_router.close()
        # The first turn that bypassed the router opened connections.
        return pairs[1:]


async def measure(subject: Subject, report: Report) -> Measured:
    async with Client(subject.cluster.address) as client:
        asker = Asker(subject, client)
        report("warming up")
        await asker.warm_up()
        report("measuring the machine")
        machine = measure_machine()
        alone, together = await _rounds(subject, asker, report)
        report("asking past the router")
        metrics_address = (await client.status()).router.metrics_address
        before = read_metrics(metrics_address)
        router_pairs = await asker.through_and_past_router()
        after = read_metrics(metrics_address)
    return Measured(
        machine=machine,
        alone=alone,
        together=together,
        router_pairs=router_pairs,
        dispatch_s=total_of(after, _DISPATCH).mean_since(total_of(before, _DISPATCH)),
        relay_s=total_of(after, _RELAY).mean_since(total_of(before, _RELAY)),
    )


async def _rounds(
    subject: Subject, asker: Asker, report: Report
) -> tuple[dict[int, list[Pair]], dict[int, list[Pair]]]:
    workload = subject.workload
    alone: dict[int, list[Pair]] = {length: [] for length in workload.prompt_lengths}
    together: dict[int, list[Pair]] = {turns: [] for turns in workload.turns_together}
    for number in range(1, workload.rounds + 1):
        report(f"round {number} of {workload.rounds}")
        for length, pairs in alone.items():
            prompts = asker.prompts(length, 1)
            pairs.append(await asker.both(prompts, workload.answer_tokens, round_number=number))
        for turns, pairs in together.items():
            length = workload.together_prompt_tokens
            prompts = asker.prompts(length, turns)
            num_tokens = workload.together_answer_tokens
            pairs.append(await asker.both(prompts, num_tokens, round_number=number))
    return alone, together


def summarise(subject: Subject, measured: Measured, environment: Environment) -> Result:
    config, cost = subject.cluster.config, subject.cost
    model = Path(config.cluster.model).name
    # The folder's location only matters on this machine.
    config = replace(config, cluster=replace(config.cluster, model=model))
    alone = tuple(
        Alone.of(pairs, prompt_tokens=length, expected_bytes=shipped_bytes(subject.layout, length))
        for length, pairs in measured.alone.items()
    )
    ceiling = cost.decode_tokens_per_s(measured.machine.read_bytes_per_s)
    pairs = [
        p for group in (measured.alone, measured.together) for ps in group.values() for p in ps
    ]
    return Result(
        environment=environment,
        model=model,
        threads=config.engine.num_threads,
        config=dataclasses.asdict(config),
        workload=subject.workload,
        machine=measured.machine,
        cost=cost,
        ceiling_tokens_per_s=ceiling,
        ceiling_share=alone[0].decode_tokens_per_s / ceiling,
        peer_ceiling_share=alone[0].peer_decode_tokens_per_s / ceiling,
        equal_answers=sum(pair.num_equal for pair in pairs),
        num_answers=sum(len(pair.segue) for pair in pairs),
        alone=alone,
        together=tuple(
            Together.of(pairs, turns=turns) for turns, pairs in measured.together.items()
        ),
        router=RouterCost.of(
            measured.router_pairs, dispatch_s=measured.dispatch_s, relay_s=measured.relay_s
        ),
    )
