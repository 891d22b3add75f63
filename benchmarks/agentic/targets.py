"""What issue 3 promises of a session's later turns, held against what was measured. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.agentic.modes import Mode
from benchmarks.agentic.samples import TurnSample, hit_rate, theoretical_hit_rate
from benchmarks.serving.samples import median
from segue.cache.layout import CacheLayout

# The first and the last of the later turns, over which the growth of a median is taken: of a
# single turn index there are as many samples as sessions, too few on a shared machine.
_WINDOW = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    name: str
    bound: str
    """As a person reads it."""
    value: float
    is_met: bool


def targets(
    samples: Mapping[Mode, Sequence[TurnSample]], layout: CacheLayout
) -> tuple[Target, ...]:
    """Those that the modes that ran allow to judge."""
    return tuple(
        _targets({m: [s for s in said if s.turn > 1] for m, said in samples.items()}, layout)
    )


def _targets(later: Mapping[Mode, Sequence[TurnSample]], layout: CacheLayout) -> Iterator[Target]:
    # With and without decode workers that compute: the second is what a handoff of the new costs.
    for mode in (Mode.EVERYTHING, Mode.NO_LOCAL):
        if mode in later:
            for target in _targets_of(mode, later, layout):
                yield replace(target, name=f"{mode}: {target.name}")


def _targets_of(
    ours_mode: Mode, later: Mapping[Mode, Sequence[TurnSample]], layout: CacheLayout
) -> Iterator[Target]:
    ours = later[ours_mode]
    yield _at_least("least share of a prompt that is reused", 0.95, min(_reused(s) for s in ours))
    gap = theoretical_hit_rate(ours) - hit_rate(ours)
    yield _at_most("hit rate below the theoretical one, points", 0.5, 100 * gap)
    yield _at_most(
        "most bytes shipped, of new pages and one state",
        1.1,
        max(s.shipped_bytes / new_bytes(s, layout) for s in ours),
    )
    yield _at_most("first token, last turns over first later turns", 1.15, growth(ours))
    for mode, bound in ((Mode.NO_PREFIX_CACHE, 8.0), (Mode.NO_RESIDENCY, 2.0)):
        if mode in later:
            faster = median(_last(later[mode])) / median(_last(ours))
            yield _at_least(f"first token, longest contexts, {mode} over this", bound, faster)


def new_bytes(sample: TurnSample, layout: CacheLayout) -> int:
    """Pages of tokens that decode did not have when the turn came, and one state.

    Tokens that the session said before are all known to decode but for the last page of its
    answer, which was not full.
    """
    new_pages = (
        layout.num_pages_for(sample.prompt_tokens) - sample.seen_tokens // layout.page_tokens
    )
    return new_pages * layout.page_bytes + layout.slot_bytes


def growth(samples: Sequence[TurnSample]) -> float:
    """Of the median time to the first token, from a session's first later turns to its last."""
    first = [s.first_token_s for s in samples if s.turn < 2 + _WINDOW]
    return median(_last(samples)) / median(first)


def _last(samples: Sequence[TurnSample]) -> list[float]:
    """First token of each session's last turns, where its context is longest."""
    ends: dict[str, int] = {}
    for sample in samples:
        ends[sample.session] = max(sample.turn, ends.get(sample.session, 0))
    return [s.first_token_s for s in samples if s.turn > ends[s.session] - _WINDOW]


def _reused(sample: TurnSample) -> float:
    return sample.reused_tokens / sample.prompt_tokens


def _at_least(name: str, bound: float, value: float) -> Target:
    return Target(name=name, bound=f"≥ {bound:g}", value=value, is_met=value >= bound)


def _at_most(name: str, bound: float, value: float) -> Target:
    return Target(name=name, bound=f"≤ {bound:g}", value=value, is_met=value <= bound)
