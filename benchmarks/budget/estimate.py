"""From work to seconds, and from memory to sessions. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.budget.facts import CAPTURED_S, EAGER_S, EXCHANGE_S, Gpu
from benchmarks.budget.launches import sum_launches
from benchmarks.budget.work import RankModel, Work
from segue.engine.budget import MemoryForWorkers, WorkerNeed
from segue.engine.config import EngineConfig
from segue.engine.host_memory import MachineMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class Seconds:
    items: dict[str, float]
    """The slower of bytes and FLOPs, for each part of the work."""
    exchanges: float
    launches: float
    is_captured: bool
    """A decode step; prompts never are."""

    @property
    def total(self) -> float:
        """The gaps between a graph's kernels add to the work; a host that launches them one by one
        does so beside it, and the slower one counts."""
        work = sum(self.items.values()) + self.exchanges
        return work + self.launches if self.is_captured else max(work, self.launches)


def num_launches(work: Work, num_ranks: int) -> int:
    each = sum_launches(num_ranks, is_step=work.is_step)
    # The columns of logits are padded, exchanged and put side by side.
    return work.launches.total + work.num_sums * each + 3 * work.num_gathers


def seconds_of(work: Work, gpu: Gpu, num_ranks: int) -> Seconds:
    launch_s = (CAPTURED_S if work.is_step else EAGER_S).value
    latency = (work.num_sums + work.num_gathers) * EXCHANGE_S.value
    return Seconds(
        items={
            item.name: max(
                item.num_bytes / gpu.bytes_per_s.value, item.flops / gpu.flops_per_s.value
            )
            for item in work.items
        },
        exchanges=latency + work.sum_bytes / gpu.nvlink_bytes_per_s.value,
        launches=num_launches(work, num_ranks) * launch_s,
        is_captured=work.is_step,
    )


def tokens_per_step(num_drafts: int, acceptance: float) -> float:
    """Each draft is accepted with this probability if those before it are; the last token of a step
    is the trunk's own."""
    return sum(acceptance**number for number in range(num_drafts + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The memory of one GPU."""

    total_bytes: int
    weight_bytes: int
    session_bytes: int
    """Pages of the whole context, and the slots of a running sequence."""
    num_sessions: int
    """The number that fits beside weights, activations and the process."""


def memory_of(model: RankModel, gpu: Gpu, *, context: int, num_drafts: int) -> Memory:
    """The same as `segue serve` plans."""
    total = int(gpu.memory_bytes.value)
    need = WorkerNeed(
        weight_bytes=model.weights.num_bytes,
        layout=model.layout,
        max_context=context,
        max_drafts=num_drafts,
    )
    machine = MachineMemory(place=f"a {gpu.name}", total_bytes=total, free_bytes=total)
    left = MemoryForWorkers.on_gpu(machine, share=1.0).left_bytes(need, EngineConfig(device="cuda"))
    session = model.context_bytes(context, num_slots=2 + num_drafts)
    return Memory(
        total_bytes=total,
        weight_bytes=need.weight_bytes,
        session_bytes=session,
        num_sessions=max(left // session, 0),
    )
