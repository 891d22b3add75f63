"""The stages of a training: the number of steps, the row length, and the topics."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from segue.demo.corpus.conversations import (
    COPYING_WEIGHTS,
    FINAL_WEIGHTS,
    LAST_WEIGHTS,
    LATE_WEIGHTS,
    POLISH_WEIGHTS,
    SPELL_WEIGHTS,
    TOOL_WEIGHTS,
    WEIGHTS,
    Weights,
)


@dataclass(frozen=True, slots=True)
class Stage:
    """Steps on rows of one length, with their topics."""

    num_steps: int
    num_rows: int
    row_tokens: int
    weights: Weights = field(default_factory=lambda: WEIGHTS)
    num_repeats: int = 0
    """The number of rows with repeated random tokens instead of a conversation."""
    copied_weight: float = 4.0
    """The weight of a copied token in the loss; other answer tokens have 1."""
    looking_weight: float = 0.0
    """The weight of the loss for attention outside the copied places."""


@dataclass(frozen=True, slots=True)
class Part:
    """Stages that run together, with a learning rate that falls over all of them."""

    stages: tuple[Stage, ...]
    rate: float
    """A share of the full learning rate."""
    first_step: int
    """The number of its first step; no conversation is in two parts."""
    begins_attention: bool = False
    """Whether the attention layer starts again, and the gated delta nets get a memory so short that
    attention is needed.
    """
    holds_memory: bool = False
    """Whether that memory stays short."""


# Rows grow during the first part: recall is learnt at short range first.
PARTS: Mapping[str, Part] = {
    "first": Part(
        (
            Stage(1200, 8, 128),
            Stage(1000, 4, 256),
            Stage(200, 2, 512, TOOL_WEIGHTS),
            Stage(1900, 2, 512, LATE_WEIGHTS),
            Stage(100, 1, 1024, LATE_WEIGHTS),
        ),
        rate=1.0,
        first_step=0,
    ),
    "second": Part(
        (
            Stage(360, 4, 256, SPELL_WEIGHTS),
            Stage(400, 2, 512, LATE_WEIGHTS),
            Stage(450, 2, 512, LAST_WEIGHTS),
        ),
        rate=0.35,
        first_step=500_000,
    ),
    "attention": Part(
        (
            Stage(1500, 4, 256, COPYING_WEIGHTS, 1, looking_weight=0.5),
            Stage(1500, 2, 512, COPYING_WEIGHTS, looking_weight=0.2),
        ),
        rate=0.5,
        first_step=800_000,
        begins_attention=True,
        holds_memory=True,
    ),
    "last": Part(
        (
            Stage(1200, 4, 256, FINAL_WEIGHTS, 1, copied_weight=5.0, looking_weight=0.3),
            Stage(700, 3, 512, FINAL_WEIGHTS, 1, copied_weight=5.0, looking_weight=0.3),
        ),
        rate=0.5,
        first_step=820_000,
        holds_memory=True,
    ),
    "polish": Part(
        (
            Stage(400, 4, 256, POLISH_WEIGHTS, 1, looking_weight=0.3),
            Stage(200, 2, 512, POLISH_WEIGHTS, looking_weight=0.2),
        ),
        rate=0.25,
        first_step=870_000,
        holds_memory=True,
    ),
}
