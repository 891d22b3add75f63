"""One model in all modes, interleaved, on the same prompts, so that other load affects
all alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.harness.output import Report
from benchmarks.harness.samples import median
from benchmarks.mtp.drive import Drive, Seen, Step, TimedRunner, with_whole_head
from benchmarks.mtp.models import PAGE_TOKENS, Subject
from decode_worker.config import DecodeConfig
from segue.engine.config import EngineConfig
from segue.engine.served_model import ServedModel

FIXED_DRAFTS = (1, 2, 3, 4, 7)
MAX_DRAFTS = 7
ADAPTIVE = "adaptive"
WHOLE_DRAFTS = 4
WHOLE = f"{WHOLE_DRAFTS}, all tokens"
"""Drafts chosen among the whole vocabulary, if the others are not."""
PRACTICE_ROUNDS = 4
"""Rounds of the adaptive mode alone, before the rounds of all modes."""
_ALL = 1 << 16
"""Prompt tokens in one step: the answers of a batch start together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeRow:
    """Tokens and ratios are medians over rounds, seconds are medians over steps."""

    mode: str
    """The number of drafts, "adaptive", or the number with all tokens for drafts."""
    tokens_per_s: float
    speedup: float
    """Relative to no drafts, in the same round."""
    accepted: tuple[float, ...]
    """The share of drafts at each position that was accepted, with all before them."""
    tokens_per_step: float
    """Per sequence, as measured."""
    draft_s: float
    verify_s: float
    rest_s: float
    free_drafts_ceiling: float | None
    """The speed-up from 1 + Σ accepted tokens per step if drafting took no time."""
    ceiling: float | None
    """The same with the measured drafting time."""
    verify_cost: float | None
    """The verify pass over a pass without drafts. Both read the same weights: 1 by bytes."""
    break_even: float | None
    """The probability, equal for each draft, above which drafts pay; above 1 they never do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRow:
    model: str
    batch_size: int
    simulate_acceptance: float | None
    num_answers: int
    equal_answers: int
    """Answers of drafting modes that equal those without drafts, token by token."""
    modes: tuple[ModeRow, ...]


def load(subject: Subject, draft_vocabulary: int) -> TimedRunner:
    batch_size = max(subject.batch_sizes)
    longest = max(len(p.token_ids) + p.max_tokens for p in subject.prompts)
    runner = TimedRunner.load(
        ServedModel.of(
            subject.folder,
            EngineConfig(page_tokens=PAGE_TOKENS, draft_vocabulary=draft_vocabulary),
        ),
        num_pages=batch_size * -(-longest // PAGE_TOKENS),
        num_slots=batch_size * (MAX_DRAFTS + 2),
    )
    assert runner.has_mtp, f"{subject.folder} has no MTP layer: there is nothing to measure"
    return runner


def measure(runner: TimedRunner, subject: Subject, report: Report) -> tuple[BatchRow, ...]:
    return tuple(_batch(runner, subject, size, report) for size in subject.batch_sizes)


def _batch(runner: TimedRunner, subject: Subject, batch_size: int, report: Report) -> BatchRow:
    drives = {mode: Drive(runner, config) for mode, config in _modes(subject).items()}
    if runner.config.draft_tokens is not None:
        drives[WHOLE] = Drive(with_whole_head(runner), _modes(subject)[str(WHOLE_DRAFTS)])
    rounds: dict[str, list[Seen]] = {mode: [] for mode in drives}
    # The first round is a warm-up: memory is touched, and the adaptive mode learns. A round has few
    # full-batch steps, since the shortest answer ends it.
    for _ in range(PRACTICE_ROUNDS):
        drives[ADAPTIVE].run(subject.prompts_of(0, batch_size), batch_size)
    for number in range(subject.num_rounds + 1):
        report(f"{subject.name}, batch of {batch_size}, round {number} of {subject.num_rounds}")
        prompts = subject.prompts_of(number, batch_size)
        names = list(drives)
        for mode in names[number % len(names) :] + names[: number % len(names)]:
            seen = drives[mode].run(prompts, batch_size)
            if number:
                rounds[mode].append(seen)
    plain = rounds["0"]
    pairs = [
        (ours, theirs)
        for seen in rounds.values()
        if seen is not plain
        for one, other in zip(seen, plain, strict=True)
        for ours, theirs in zip(one.answers, other.answers, strict=True)
    ]
    return BatchRow(
        model=subject.name,
        batch_size=batch_size,
        simulate_acceptance=(
            subject.simulate_acceptance if subject.simulate_acceptance >= 0 else None
        ),
        num_answers=len(pairs),
        equal_answers=sum(ours == theirs for ours, theirs in pairs),
        modes=tuple(
            _row(
                mode,
                WHOLE_DRAFTS if mode == WHOLE else None if mode == ADAPTIVE else int(mode),
                drives[mode].accepted_shares(),
                seen,
                plain,
                batch_size,
            )
            for mode, seen in rounds.items()
        ),
    )


def _modes(subject: Subject) -> dict[str, DecodeConfig]:
    rate = subject.simulate_acceptance
    modes = {"0": DecodeConfig(max_drafts=0, max_prompt_tokens=_ALL)}
    for k in FIXED_DRAFTS:
        modes[str(k)] = DecodeConfig(
            max_drafts=k,
            adaptive_drafts=False,
            max_prompt_tokens=_ALL,
            simulate_acceptance=rate,
        )
    modes[ADAPTIVE] = DecodeConfig(
        max_drafts=MAX_DRAFTS, max_prompt_tokens=_ALL, simulate_acceptance=rate
    )
    return modes


def _row(
    mode: str,
    num_drafts: int | None,
    accepted: list[float],
    seen: list[Seen],
    plain: list[Seen],
    batch_size: int,
) -> ModeRow:
    """`num_drafts`: None if it is chosen for each step."""
    steps = [step for one in seen for step in one.steps]
    draft_s, verify_s, rest_s = _seconds(steps)
    plain_parts = _seconds([step for one in plain for step in one.steps])
    plain_s = sum(plain_parts)
    expected = 1 + sum(accepted)
    is_fixed = num_drafts is not None
    return ModeRow(
        mode=mode,
        tokens_per_s=median([one.tokens_per_s for one in seen]),
        speedup=median(
            [ours.tokens_per_s / base.tokens_per_s for ours, base in zip(seen, plain, strict=True)]
        ),
        accepted=tuple(accepted) if is_fixed else (),
        tokens_per_step=sum(step.num_tokens for step in steps) / len(steps) / batch_size,
        draft_s=draft_s,
        verify_s=verify_s,
        rest_s=rest_s,
        free_drafts_ceiling=expected * plain_s / (verify_s + rest_s) if is_fixed else None,
        ceiling=expected * plain_s / (draft_s + verify_s + rest_s) if is_fixed else None,
        verify_cost=verify_s / plain_parts[1] if is_fixed else None,
        break_even=(
            break_even(num_drafts, (draft_s + verify_s + rest_s) / plain_s) if num_drafts else None
        ),
    )


def break_even(num_drafts: int, cost: float) -> float:
    """The p for which 1 + p + … + p^num_drafts tokens a step are worth `cost` steps without drafts.
    A cost that no p up to 1 is worth gives more than 1."""
    low, high = 0.0, 2.0
    while high - low > 1e-6:
        p = (low + high) / 2
        if sum(p**j for j in range(num_drafts + 1)) < cost:
            low = p
        else:
            high = p
    return high


def _seconds(steps: list[Step]) -> tuple[float, float, float]:
    return (
        median([step.draft_s for step in steps]),
        median([step.verify_s for step in steps]),
        median([step.rest_s for step in steps]),
    )
