"""The stages of training: number of steps, row length and topics."""

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
class TrainingStage:
    """Steps with the same row length and topics."""

    num_steps: int
    num_rows: int
    row_tokens: int
    weights: Weights = field(default_factory=lambda: WEIGHTS)
    num_repeats: int = 0
    """Rows with repeated random tokens instead of a conversation."""
    copied_weight: float = 4.0
    """The weight of a copied token in the loss; other answer tokens have 1."""
    looking_weight: float = 0.0
    """The weight of the loss for attention outside the copied places."""


@dataclass(frozen=True, slots=True)
class TrainingPart:
    """Stages of one run. The learning rate falls over all of them."""

    stages: tuple[TrainingStage, ...]
    rate: float
    """A share of the full learning rate."""
    first_step: int
    """The number of its first step; no conversation is in two parts."""
    resets_attention: bool = False
    """Whether the attention layer starts from random weights, and the gated delta nets with a
    memory so short that attention is needed.
    """
    holds_memory: bool = False
    """Whether the decays of the gated delta nets are not trained."""


# Rows grow during the first part: recall is learnt at short range first.
PARTS: Mapping[str, TrainingPart] = {
    "first": TrainingPart(
        (
            TrainingStage(1200, 8, 128),
            TrainingStage(1000, 4, 256),
            TrainingStage(200, 2, 512, TOOL_WEIGHTS),
            TrainingStage(1900, 2, 512, LATE_WEIGHTS),
            TrainingStage(100, 1, 1024, LATE_WEIGHTS),
        ),
        rate=1.0,
        first_step=0,
    ),
    "second": TrainingPart(
        (
            TrainingStage(360, 4, 256, SPELL_WEIGHTS),
            TrainingStage(400, 2, 512, LATE_WEIGHTS),
            TrainingStage(450, 2, 512, LAST_WEIGHTS),
        ),
        rate=0.35,
        first_step=500_000,
    ),
    "attention": TrainingPart(
        (
            TrainingStage(1500, 4, 256, COPYING_WEIGHTS, 1, looking_weight=0.5),
            TrainingStage(1500, 2, 512, COPYING_WEIGHTS, looking_weight=0.2),
        ),
        rate=0.5,
        first_step=800_000,
        resets_attention=True,
        holds_memory=True,
    ),
    "last": TrainingPart(
        (
            TrainingStage(1200, 4, 256, FINAL_WEIGHTS, 1, copied_weight=5.0, looking_weight=0.3),
            TrainingStage(700, 3, 512, FINAL_WEIGHTS, 1, copied_weight=5.0, looking_weight=0.3),
        ),
        rate=0.5,
        first_step=820_000,
        holds_memory=True,
    ),
    "polish": TrainingPart(
        (
            TrainingStage(400, 4, 256, POLISH_WEIGHTS, 1, looking_weight=0.3),
            TrainingStage(200, 2, 512, POLISH_WEIGHTS, looking_weight=0.2),
        ),
        rate=0.25,
        first_step=870_000,
        holds_memory=True,
    ),
}
