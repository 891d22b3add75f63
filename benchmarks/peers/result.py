"""The numbers of one run, as written to JSON. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import eq
from pathlib import Path

from benchmarks.harness.ceilings import Ceilings
from benchmarks.harness.environment import Environment
from benchmarks.harness.samples import Spread, median, steady_tokens_per_s
from benchmarks.peers.process import Memory
from benchmarks.peers.run import Sample, Side, Workload
from segue.model.checkpoint.headers import read_headers

RUNNER, CLUSTER, LOCAL = "Segue, runner", "Segue, 1P1D", "Segue, local prefill"
_BF16_BYTES = 2
QUANTIZED = {name: f"{RUNNER}, {name}" for name in ("int8", "int4")}
"""Shares of ceilings are of the plain weights', so theirs can be above 1."""
OURS = (RUNNER, CLUSTER, LOCAL, *QUANTIZED.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The model's cost, whichever implementation runs it."""

    weight_bytes_per_step: int
    flops_per_prompt_token: int

    @classmethod
    def of(cls, folder: Path) -> Cost:
        """From the headers of a checkpoint with tied embeddings."""
        headers = read_headers(folder / "model.safetensors")
        in_layers = [one.size for name, one in headers.items() if ".layers." in name]
        return cls(
            weight_bytes_per_step=_BF16_BYTES * sum(one.size for one in headers.values()),
            flops_per_prompt_token=2 * sum(in_layers),
        )

    def ceiling(self, ceilings: Ceilings, question: Question) -> float:
        """Tokens per second that no implementation with weights of this size exceeds: a prompt at
        the rate of products, a step at the rate of reading the weights once."""
        if question.is_prefill:
            return ceilings.flops_per_s / self.flops_per_prompt_token
        return question.turns * ceilings.read_bytes_per_s / self.weight_bytes_per_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request to every side: the time of a prompt, or the speed of answers to short prompts."""

    prompt_tokens: int
    turns: int
    is_prefill: bool

    @property
    def name(self) -> str:
        return f"prefill {self.prompt_tokens}" if self.is_prefill else f"decode {self.turns}"

    def tokens_per_s(self, sample: Sample) -> float:
        """Raises ValueError if the turns of a sample were never decoding at the same time."""
        if self.is_prefill:
            return self.prompt_tokens / sample.answers[0].first_token_s
        speed = steady_tokens_per_s(sample.answers)
        if speed is None:
            raise ValueError(
                f"{sample.side}: {self.turns} turns asked at once never decoded together, because "
                "one ended before the last started: raise answer_tokens"
            )
        return speed

    def is_of(self, sample: Sample) -> bool:
        return (self.prompt_tokens, self.turns) == (sample.prompt_tokens, sample.turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One side's answers to one question, over all rounds."""

    side: str
    question: str
    tokens_per_s: Spread
    first_token_s: Spread
    """From the request to the first token of the last of the turns."""
    best_peer_ratio: float
    """This median over the best peer's."""
    ceiling_share: float
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SideResult:
    name: str
    start_s: float
    """From the start of the process to the loaded model, including any compiling."""
    memory: Memory
    equal_first_tokens: int
    """Answers whose first token is transformers'. bf16 roundings differ, so not all are."""
    num_compared: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    environment: Environment
    model: str
    threads: int
    workload: Workload
    starts: int
    """How often each side was started, of which `sides` has the last."""
    ceilings: Ceilings
    cost: Cost
    sides: tuple[SideResult, ...]
    measured: tuple[Measured, ...]
    decode_lost_in_cluster: dict[str, float]
    """1 - cluster / runner, the median of the rounds, by question."""
    first_token_added_s: dict[str, float]
    """Cluster minus runner, the median of the rounds, by question."""


def questions(workload: Workload) -> list[Question]:
    prefill = [
        Question(prompt_tokens=length, turns=1, is_prefill=True)
        for length in workload.prompt_lengths
    ]
    short = workload.short_prompt_tokens
    return prefill + [
        Question(prompt_tokens=short, turns=turns, is_prefill=False)
        for turns in workload.turns_together
    ]


def measured_of(
    samples: Sequence[Sample], workload: Workload, cost: Cost, ceilings: Ceilings
) -> list[Measured]:
    names = list(dict.fromkeys(sample.side for sample in samples))
    found = []
    for question in questions(workload):
        of = {name: _of(samples, name, question) for name in names}
        speeds = {name: _speeds(ones, question) for name, ones in of.items()}
        best = max(median(speeds[name]) for name in names if name not in OURS)
        for name in names:
            speed = median(speeds[name])
            found.append(
                Measured(
                    side=name,
                    question=question.name,
                    tokens_per_s=Spread.of(speeds[name]),
                    first_token_s=Spread.of([_first_token_s(one) for one in of[name]]),
                    best_peer_ratio=speed / best,
                    ceiling_share=speed / cost.ceiling(ceilings, question),
                    notes=tuple(sorted({one.note for one in of[name]} - {""})),
                )
            )
    return found


def lost_in_cluster(samples: Sequence[Sample], workload: Workload) -> dict[str, float]:
    lost = {}
    for question in questions(workload):
        pairs = _cluster_and_runner(samples, question)
        if pairs and not question.is_prefill:
            speed = question.tokens_per_s
            lost[question.name] = median([1 - speed(ours) / speed(alone) for ours, alone in pairs])
    return lost


def added_in_cluster_s(samples: Sequence[Sample], workload: Workload) -> dict[str, float]:
    added = {}
    for question in questions(workload):
        pairs = _cluster_and_runner(samples, question)
        # Of several turns, the cluster computes the prompts of together.
        if pairs and question.turns == 1:
            first = _first_token_s
            added[question.name] = median([first(ours) - first(alone) for ours, alone in pairs])
    return added


def _cluster_and_runner(
    samples: Sequence[Sample], question: Question
) -> list[tuple[Sample, Sample]]:
    """Both sides' samples, round by round; empty if one was not measured."""
    return list(zip(_of(samples, CLUSTER, question), _of(samples, RUNNER, question), strict=False))


def side_result(side: Side, samples: Sequence[Sample], *, oracle: str) -> SideResult:
    first = _first_tokens(samples, side.name)
    # A suffix continues a session, so its prompt is another one.
    compared = [] if side.is_suffix else _first_tokens(samples, oracle)
    return SideResult(
        name=side.name,
        start_s=side.subject.start_s,
        memory=side.subject.memory,
        equal_first_tokens=sum(map(eq, first, compared)),
        num_compared=len(compared),
    )


def _first_tokens(samples: Sequence[Sample], side: str) -> list[int]:
    """In the order of the questions, which is the same for every side."""
    return [a.token_ids[0] for one in samples if one.side == side for a in one.answers]


def _of(samples: Sequence[Sample], side: str, question: Question) -> list[Sample]:
    return [one for one in samples if one.side == side and question.is_of(one)]


def _speeds(samples: Sequence[Sample], question: Question) -> list[float]:
    return [question.tokens_per_s(one) for one in samples]


def _first_token_s(sample: Sample) -> float:
    return max(answer.token_at[0] - answer.asked_at for answer in sample.answers)
