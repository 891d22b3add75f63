"""Settings of prefill workers: section `[prefill]`."""

from __future__ import annotations

from dataclasses import dataclass

from segue.api.cluster.drain import MAX_DRAIN_S
from segue.engine.config import MAX_RANKS
from segue.process.cores import CoreSets


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillConfig:
    chunk_tokens: int = 512
    """Tokens in one forward pass, over all of its turns. Larger chunks compute faster per token,
    smaller ones ship earlier and release a cancelled turn sooner."""
    max_waiting: int = 256
    """Turns that may wait for memory."""
    prefix_cache: bool = True
    """Keep pages and states of prompts, and resume from the longest cached prefix."""
    pull: bool = True
    """Fetch a longer prefix from the worker that has it, if that is expected to be faster."""
    checkpoint_stride: int = 4096
    """Tokens of a long prompt between two kept states."""
    niceness: int = 3
    """How far computing gives way to other processes on the same cores, from 0 to 19. On two cores,
    3 makes decode steps beside a prompt a quarter shorter than 0 does, and the prompt 5 % slower.
    See docs/operations.md."""
    tensor_parallel: int = 0
    """Ranks of each of these workers; 0: as `[engine]` says."""
    cores: str = ""
    """Cores of these workers, if not those of `[engine]`; same format."""
    drain_s: float = 30.0
    """How long prompts that are being computed may take when the worker drains. Those that take
    longer are computed elsewhere."""

    def __post_init__(self) -> None:
        for name in ("chunk_tokens", "max_waiting", "checkpoint_stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not 0 <= self.niceness <= 19:
            raise ValueError(f"niceness must be in [0, 19], got {self.niceness}")
        if not 0 <= self.tensor_parallel <= MAX_RANKS:
            raise ValueError(
                f"tensor_parallel must be in [0, {MAX_RANKS}], got {self.tensor_parallel}"
            )
        CoreSets.parse(self.cores)
        if not 0 <= self.drain_s <= MAX_DRAIN_S:
            raise ValueError(f"drain_s must be in [0, {MAX_DRAIN_S:g}], got {self.drain_s}")
