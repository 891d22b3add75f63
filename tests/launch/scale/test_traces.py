"""Autoscaling on recorded traces, in virtual time: no oscillation, and the objective is met about
as often as in a cluster of the same average size that does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from segue.api.types import Role
from segue.launch.scale.config import AutoscaleConfig
from tests.launch.scale.virtual_fleet import (
    TRACES,
    Request,
    autoscaled,
    azure,
    mooncake,
    static,
)

pytestmark = pytest.mark.skipif(
    not TRACES.is_dir(), reason=f"the recorded traces are not here: {TRACES}"
)

CONFIG = AutoscaleConfig(enabled=True, max_prefill=12, max_decode=12)
GROWN_S = 300.0
"""From the start with two workers of each role: the traces begin with their full load."""
HOUR_S = 3_600.0


def code(seconds: float) -> Sequence[Request]:
    return azure("AzureLLMInferenceTrace_code_2023.csv", seconds=seconds)


def conversations(seconds: float) -> Sequence[Request]:
    return azure("AzureLLMInferenceTrace_conv_2023.csv", seconds=seconds)


def long_prompts(seconds: float) -> Sequence[Request]:
    return mooncake("mooncake_conversation_trace.jsonl", seconds=seconds)


@pytest.mark.parametrize(
    ("trace", "seconds"),
    [
        pytest.param(conversations, 900.0, id="conversations"),
        pytest.param(conversations, HOUR_S, id="conversations-hour", marks=pytest.mark.slow),
        pytest.param(code, HOUR_S, id="code-hour", marks=pytest.mark.slow),
        pytest.param(long_prompts, HOUR_S, id="long-prompts-hour", marks=pytest.mark.slow),
    ],
)
def test_it_follows_the_load_without_swinging(
    trace: Callable[[float], Sequence[Request]], seconds: float
) -> None:
    requests = trace(seconds)

    outcome = autoscaled(requests, CONFIG)
    same_size = static(requests, outcome)

    assert len(outcome.turns) == len(requests), "every turn has ended"
    report = (
        f"{len(requests)} turns, {outcome.mean(Role.PREFILL):.2f} prefill and "
        f"{outcome.mean(Role.DECODE):.2f} decode workers on average, {len(outcome.changes) - 1} "
        f"changes, {outcome.reversals(CONFIG.down_after_s)} of them taken back; objective met by "
        f"{outcome.share_within(GROWN_S):.1%}, static {same_size.changes[0][1]}: "
        f"{same_size.share_within(GROWN_S):.1%}; {outcome.changes}"
    )
    print(report)  # noqa: T201  # for docs/LOG.md, with -s
    assert len(outcome.changes) - 1 <= 5 + seconds / 200, report
    assert outcome.reversals(CONFIG.down_after_s) <= 1 + seconds / 1_000, report
    assert outcome.share_within(GROWN_S) >= same_size.share_within(GROWN_S) - 0.06, report
