"""What became of the prefixes that the cluster holds, and what a conversation's length costs."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram

from segue.api.types import ChatInput, TurnInput


class ReuseMetrics:
    """Tokens of prompts that need not be computed, at three points. Each loses some of the last:
    what is held elsewhere is not captured, what is evicted meanwhile is not delivered.
    """

    def __init__(self, registry: CollectorRegistry, buckets: Sequence[float]) -> None:
        self._held = Counter(
            "segue_reuse_held_tokens_total",
            "Prompt tokens before the deepest state that any worker held.",
            registry=registry,
        )
        self._captured = Counter(
            "segue_reuse_captured_tokens_total",
            "Prompt tokens that the placement did not expect to be computed.",
            registry=registry,
        )
        self._delivered = Counter(
            "segue_reuse_delivered_tokens_total",
            "Prompt tokens that no worker computed.",
            registry=registry,
        )
        self.first_token_s = Histogram(
            "segue_chat_first_token_seconds",
            "From the receipt of a chat's turn to its first token, by the turn's number.",
            ["turn"],
            buckets=buckets,
            registry=registry,
        )

    def ended(self, *, held: int, captured: int, delivered: int) -> None:
        self._held.inc(held)
        self._captured.inc(captured)
        self._delivered.inc(delivered)


def turn_number(turn_input: TurnInput) -> int:
    """Which turn of its chat this is, from 1; 0 for an input that is no chat."""
    if not isinstance(turn_input, ChatInput):
        return 0
    num_answers = sum(message.role == "assistant" for message in turn_input.messages)
    return num_answers if turn_input.continue_final_message else num_answers + 1


def turn_class(number: int) -> str:
    """The metrics' label for a turn's number: one of seven."""
    for last in (1, 2, 4, 8, 16, 32):
        if number <= last:
            return f"{last // 2 + 1}-{last}" if last > 2 else str(last)
    return "33+"
