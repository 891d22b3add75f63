"""Settings of decode workers: section `[decode]`."""

from __future__ import annotations

from dataclasses import dataclass

from segue.api.checks import require_count, require_number
from segue.api.cluster.drain import MAX_DRAIN_S
from segue.api.errors import InvalidConfig
from segue.engine.batch import MAX_VERIFY_TOKENS
from segue.engine.config import MAX_RANKS
from segue.process.cores import core_lists


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeConfig:
    max_batch: int = 64
    """The most sequences in one step; if there are more, they alternate."""
    max_drafts: int = 7
    """The most tokens that the MTP layer drafts per sequence and step: 0 to 7. The actual number
    is learned, and is 0 if drafts do not save time. Slots are taken for that number."""
    adaptive_drafts: bool = True
    """If off, every step drafts `max_drafts` tokens."""
    simulate_acceptance: float = -1.0
    """Accept each draft with this probability instead of comparing it with the model's token, to
    measure speed with random weights. Answers are not the model's then. Below 0: off."""
    max_prompt_tokens: int = 512
    """The most prompt tokens that one step prefills locally: running answers wait for them."""
    max_waiting: int = 256
    """Turns that may wait for memory."""
    residency: bool = True
    """Keep a session's pages and a state after its turn, so that the next ships only new ones."""
    lease_s: float = 600.0
    """The lease time of a session, whose memory is then evicted last. Each turn renews it."""

    tensor_parallel: int = 0
    """Ranks of each of these workers; 0: that of `[engine]`."""
    cores: str = ""
    """Cores of these workers, if not those of `[engine]`; same format."""
    drain_s: float = 30.0
    """How long running turns, and the moves of sessions to other workers, may take when the worker
    drains. Turns that take longer continue elsewhere."""

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_prompt_tokens", "max_waiting"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        require_count("max_drafts", self.max_drafts, high=MAX_VERIFY_TOKENS - 1)
        if self.simulate_acceptance > 1:
            raise ValueError(
                "simulate_acceptance must be a probability in [0, 1], or below 0 for off, "
                f"got {self.simulate_acceptance}"
            )
        if self.simulates_acceptance and not self.max_drafts:
            raise ValueError("simulate_acceptance needs drafts, got max_drafts = 0")
        if self.lease_s <= 0:
            raise ValueError(f"lease_s must be > 0, got {self.lease_s}")
        require_count("tensor_parallel", self.tensor_parallel, high=MAX_RANKS)
        core_lists(self.cores)
        require_number("drain_s", self.drain_s, 0.0, MAX_DRAIN_S)

    @property
    def simulates_acceptance(self) -> bool:
        return self.simulate_acceptance >= 0

    @property
    def max_pass_tokens(self) -> int:
        """The most tokens in one step: answers with all their drafts, and prompts."""
        return self.max_batch * (1 + self.max_drafts) + self.max_prompt_tokens

    def check_device(self, *, launches_ahead: bool) -> None:
        """Raises InvalidConfig if the device's steps do not support a setting."""
        if self.simulates_acceptance and launches_ahead:
            raise InvalidConfig(
                "[decode] simulate_acceptance works only on the CPU: on a GPU, the step itself "
                "accepts drafts; leave it out"
            )

    def check_model(self, *, has_mtp: bool) -> None:
        """Raises InvalidConfig if a setting needs drafts and the model cannot draft."""
        if self.simulates_acceptance and not has_mtp:
            raise InvalidConfig(
                "[decode] simulate_acceptance needs a checkpoint with an MTP layer and "
                "[engine] mtp = true; without both there are no drafts: leave it out"
            )
