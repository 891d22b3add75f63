"""Settings of prefill workers: section `[prefill]`."""

from __future__ import annotations

from dataclasses import dataclass

from segue.api.checks import require_count, require_number
from segue.api.cluster.drain import MAX_DRAIN_S
from segue.engine.config import MAX_RANKS
from segue.process.cores import core_lists


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
    """The niceness of computing, from 0 to 19, towards other processes on the same cores. On two
    cores, 3 makes decode steps next to a prompt a quarter shorter than 0 does, and the prompt 5 %
    slower. See docs/operations.md."""
    tensor_parallel: int = 0
    """Ranks of each of these workers; 0: that of `[engine]`."""
    cores: str = ""
    """Cores of these workers, if not those of `[engine]`; same format."""
    drain_s: float = 30.0
    """How long running prompts may take when the worker drains. Those that take longer are computed
    elsewhere."""

    def __post_init__(self) -> None:
        for name in ("chunk_tokens", "max_waiting", "checkpoint_stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        require_count("niceness", self.niceness, high=19)
        require_count("tensor_parallel", self.tensor_parallel, high=MAX_RANKS)
        core_lists(self.cores)
        require_number("drain_s", self.drain_s, 0.0, MAX_DRAIN_S)
