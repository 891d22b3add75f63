"""Issue 3's targets for a session's later turns, compared with the measurements. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.agentic.modes import Mode
from benchmarks.agentic.samples import TurnSample, hit_rate, theoretical_hit_rate
from benchmarks.harness.samples import median
from segue.cache.layout import CacheLayout

# The number of first and last later turns between which a median's growth is computed: a single
# turn index has only as many samples as sessions, too few on a shared machine.
_WINDOW = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    name: str
    bound: str
    """Human-readable."""
    value: float
    is_met: bool


def targets(
    samples: Mapping[Mode, Sequence[TurnSample]], layout: CacheLayout
) -> tuple[Target, ...]:
    """The targets that can be judged from the modes that ran."""
    return tuple(
        _targets({m: [s for s in turns if s.turn > 1] for m, turns in samples.items()}, layout)
    )


def _targets(later: Mapping[Mode, Sequence[TurnSample]], layout: CacheLayout) -> Iterator[Target]:
    # With and without decode workers that compute: the second shows the cost of a handoff of new
    # tokens.
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
    """Pages of tokens that decode did not have when the turn arrived, and one state.

    Decode has all earlier tokens of the session except those in the last page of its answer, which
    was not full.
    """
    new_pages = (
        layout.num_pages_for(sample.prompt_tokens) - sample.seen_tokens // layout.page_tokens
    )
    return new_pages * layout.page_bytes + layout.slot_bytes


def growth(samples: Sequence[TurnSample]) -> float:
    """The growth of the median time to first token from a session's first later turns
    to its last.
    """
    first = [s.first_token_s for s in samples if s.turn < 2 + _WINDOW]
    return median(_last(samples)) / median(first)


def _last(samples: Sequence[TurnSample]) -> list[float]:
    """The times to first token of each session's last turns, which have the longest contexts."""
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
