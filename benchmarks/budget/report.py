"""The whole budget of a model on GPUs as one value. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.budget.estimate import (
    Memory,
    Seconds,
    memory_of,
    num_launches,
    seconds_of,
    tokens_per_step,
)
from benchmarks.budget.facts import (
    CAPTURED_S,
    EAGER_S,
    EXCHANGE_S,
    Fact,
    Gpu,
)
from benchmarks.budget.work import RankModel, Work, decode_work, prefill_work
from segue.api.errors import InvalidConfig
from segue.model.config import ModelConfig
from segue.model.weights.draft_tokens import frequent_tokens
from segue.parallel.rank import Rank

TURN_TOKENS, RESIDENT_TOKENS = 800, 50_000
"""An agent's turn: new tokens, and those that are in the cache."""
PAGE_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    gpu: Gpu
    num_gpus: int
    rank: Rank
    """The first of a worker."""
    context: int
    batch: int
    num_drafts: int
    acceptance: Fact
    draft_vocabulary: int
    dtype: str
    kv_dtype: str = ""
    """Of keys and values; if empty, `dtype`."""

    def __post_init__(self) -> None:
        if self.num_gpus % self.rank.count:
            raise InvalidConfig(
                f"--gpus: {self.num_gpus} GPUs must be a multiple of --tp = {self.rank.count}"
            )
        for name in ("context", "batch"):
            if getattr(self, name) < 1:
                raise InvalidConfig(f"--{name} must be >= 1, got {getattr(self, name)}")
        if self.draft_vocabulary < 0:
            raise InvalidConfig(f"--draft-vocabulary must be >= 0, got {self.draft_vocabulary}")
        if not 0 <= self.num_drafts <= 7:
            raise InvalidConfig(f"--drafts must be in [0, 7], got {self.num_drafts}")
        if not 0 <= self.acceptance.value <= 1:
            raise InvalidConfig(f"--acceptance must be in [0, 1], got {self.acceptance.value:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Something that a worker computes."""

    name: str
    work: Work
    launches: int
    seconds: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Handoff:
    name: str
    num_bytes: int
    """That each rank sends, all at the same time."""
    nvlink_s: float
    rdma_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    setup: Setup
    memory: Memory
    passes: tuple[Pass, ...]
    """A decode step, an agent's turn, the whole context as a prompt."""
    handoffs: tuple[Handoff, ...]
    tokens_per_step: float
    facts: dict[str, Fact]
    notes: tuple[str, ...]

    @property
    def tokens_per_s(self) -> float:
        """For one user."""
        return self.tokens_per_step / self.passes[0].seconds.total

    @property
    def tokens_per_minute(self) -> float:
        """For one GPU that only decodes."""
        return 60 * self.tokens_per_s * self.setup.batch / self.setup.rank.count

    def first_token_s(self, number: int) -> float:
        """For the turn or the prompt in `passes`, with the handoff over RDMA after it: an upper
        bound, because handoffs overlap with computing."""
        return self.passes[number].seconds.total + self.handoffs[number - 1].rdma_s


def report_of(config: ModelConfig, setup: Setup) -> Report:
    """Raises InvalidConfig if the model cannot be split over the ranks, or cannot draft."""
    if setup.num_drafts and not config.num_mtp_layers:
        raise InvalidConfig("--drafts must be 0: the configuration has no MTP layer")
    drafts = frequent_tokens(config.vocab_size, (), setup.draft_vocabulary)
    config = replace(config, draft_tokens=drafts)
    model = RankModel.of(
        config,
        setup.rank,
        dtype=setup.dtype,
        page_tokens=PAGE_TOKENS,
        kv_dtype=setup.kv_dtype,
    )
    resident = min(RESIDENT_TOKENS, max(setup.context - TURN_TOKENS, 0))
    works = {
        "decode step": decode_work(
            model, batch=setup.batch, num_drafts=setup.num_drafts, context=setup.context
        ),
        f"turn, {TURN_TOKENS} on {resident:,}": prefill_work(
            model, num_tokens=TURN_TOKENS, resident=resident
        ),
        f"prompt, {setup.context:,}": prefill_work(model, num_tokens=setup.context, resident=0),
    }
    return Report(
        setup=setup,
        memory=memory_of(model, setup.gpu, context=setup.context, num_drafts=setup.num_drafts),
        passes=tuple(_pass(name, work, setup) for name, work in works.items()),
        handoffs=(
            _handoff(f"turn, {TURN_TOKENS} new tokens", model, setup.gpu, TURN_TOKENS),
            _handoff(f"prompt, {setup.context:,}", model, setup.gpu, setup.context),
        ),
        tokens_per_step=tokens_per_step(setup.num_drafts, setup.acceptance.value),
        facts=_facts(setup),
        notes=tuple(_notes(config, setup)),
    )


def _pass(name: str, work: Work, setup: Setup) -> Pass:
    count = setup.rank.count
    return Pass(
        name=name,
        work=work,
        launches=num_launches(work, count),
        seconds=seconds_of(work, setup.gpu, count),
    )


def _handoff(name: str, model: RankModel, gpu: Gpu, num_tokens: int) -> Handoff:
    num_bytes = model.context_bytes(num_tokens, num_slots=1)
    return Handoff(
        name=name,
        num_bytes=num_bytes,
        nvlink_s=num_bytes / gpu.nvlink_bytes_per_s.value,
        rdma_s=num_bytes / gpu.rdma_bytes_per_s.value,
    )


def _facts(setup: Setup) -> dict[str, Fact]:
    gpu = setup.gpu
    return {
        "memory (bytes)": gpu.memory_bytes,
        "memory bandwidth (bytes/s)": gpu.bytes_per_s,
        "products (FLOP/s)": gpu.flops_per_s,
        "NVLink (bytes/s)": gpu.nvlink_bytes_per_s,
        "RDMA (bytes/s)": gpu.rdma_bytes_per_s,
        "eager launch (s)": EAGER_S,
        "captured launch (s)": CAPTURED_S,
        "exchange of ranks (s)": EXCHANGE_S,
        "acceptance of a draft": setup.acceptance,
    }


def _notes(config: ModelConfig, setup: Setup) -> list[str]:
    notes = [
        "Bytes and FLOPs are computed from config.json, the loader's table and the cache layout; "
        "launches are counted in the code (tests/benchmarks). No time here was measured.",
        "Assumed: tokens choose experts independently and evenly; a step's logits, activations "
        "and samples cost launches only.",
    ]
    if config.quantization is not None:
        notes.append(
            "Passes of more rows than the streaming products take dequantise their matrices first, "
            "which is not counted."
        )
    if setup.context > config.max_position_embeddings:
        notes.append(
            f"The configuration has {config.max_position_embeddings:,} positions: "
            f"`segue serve` would refuse a prompt of {setup.context:,}."
        )
    return notes
