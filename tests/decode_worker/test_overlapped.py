"""An engine that launches steps before it has read the last one gives the same answers as one that
waits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from decode_worker.config import DecodeConfig
from decode_worker.engine.engine import DecodeEngine
from decode_worker.engine.sequence import DecodeSequence
from decode_worker.metrics import DecodeMetrics
from segue.api.prompt import Prompt
from segue.api.turn import FinishReason, ShipReport, TurnSpec
from segue.api.types import Sampling, SessionId, SlotId, StopRules, TurnId
from segue.engine.answer import AnswerState
from segue.engine.device.launcher import Launcher
from segue.engine.runner import ModelRunner
from segue.engine.sampler import SequenceSampler
from segue.engine.speculation.acceptance import SlotRing
from tests.checkpoints import VOCAB_SIZE
from tests.decode_worker.engines import (
    MAX_RUNNING,
    PAGE_TOKENS,
    Publish,
    SlowDevice,
    TurnCase,
    TurnOutcome,
    Turns,
    runner_of,
)


@pytest.fixture(scope="module")
def runner(mtp_dense: Path) -> ModelRunner:
    return runner_of(mtp_dense)


def config(max_drafts: int, *, max_batch: int = 64) -> DecodeConfig:
    return DecodeConfig(max_drafts=max_drafts, adaptive_drafts=False, max_batch=max_batch)


def asked(max_drafts: int, num: int = 14) -> list[TurnCase]:
    """At most `MAX_RUNNING` turns at once. They end by length, by a token that a step recognizes,
    by one that only the host recognizes, and by a drop.
    """
    source = random.Random(4)
    turns = []
    for i in range(num):
        # Draft layer and trunk are random: they agree if both sample from only a few tokens.
        bias = [{5: 9.0, 9: 8.5, 11: 8.0}, {}, {3: 9.0, 299: 8.5}][i % 3]
        # A step recognizes the first eight.
        stop_ids = [(), (9,), (200, 201, 202, 203, 204, 205, 206, 207, 208, 299)][i % 3]
        turns.append(
            TurnCase(
                prompt=tuple(source.randrange(VOCAB_SIZE) for _ in range(1 + i * 7 % 40)),
                stop=StopRules(max_tokens=[1, 37, 40, 9][i % 4], stop_token_ids=stop_ids),
                sampling=Sampling(
                    temperature=[1.0, 0.0, 0.9][i % 3],
                    top_k=[0, 20][i % 2],
                    seed=i,
                    frequency_penalty=[0.0, 0.2][i % 2],
                    logit_bias=bias,
                    logprobs=[None, 2, None, 0][i % 4],
                ),
                at_step=i // MAX_RUNNING * 45 + i % 4,
                num_slots=min([9, 3, 2, 6][i % 4], max_drafts + 2),
                dropped_at=i // MAX_RUNNING * 45 + 12 if i % 5 == 4 else None,
            )
        )
    return turns


def waiting(runner: ModelRunner, settings: DecodeConfig) -> Callable[[Publish], DecodeEngine]:
    return lambda publish: DecodeEngine(runner, DecodeMetrics(), publish, settings)


def overlapped(
    runner: ModelRunner, settings: DecodeConfig, num_ahead: int
) -> Callable[[Publish], DecodeEngine]:
    def engine(publish: Publish) -> DecodeEngine:
        launcher = Launcher.of(
            runner,
            num_rows=MAX_RUNNING,
            max_batch=settings.max_batch,
            max_drafts=settings.max_drafts,
        )
        return DecodeEngine(
            runner,
            DecodeMetrics(),
            publish,
            settings,
            launcher=SlowDevice(launcher, num_ahead) if num_ahead else launcher,
        )

    return engine


def assert_same(
    turns: Sequence[TurnCase], expected: list[TurnOutcome], became: list[TurnOutcome]
) -> None:
    for turn, one, other in zip(turns, expected, became, strict=True):
        if turn.dropped_at is not None:
            # Which step was the last one depends on timing.
            shorter = min(len(one.token_ids), len(other.token_ids))
            assert other.token_ids[:shorter] == one.token_ids[:shorter]
            continue
        assert other.token_ids == one.token_ids
        assert other.finish == one.finish
        assert other.cached_tokens == one.cached_tokens
        assert [t.token_id for t in other.logprobs] == [t.token_id for t in one.logprobs]
        for ours, theirs in zip(other.logprobs, one.logprobs, strict=True):
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)
            assert len(ours.top_logprobs) == len(theirs.top_logprobs)
        if other.checkpoint_tokens:
            assert other.checkpoint_tokens == one.checkpoint_tokens
            for ours, theirs in zip(other.checkpoint, one.checkpoint, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("max_drafts", "num_ahead", "max_batch"),
    [
        (0, 1, 64),
        (7, 1, 3),
        (3, 2, 64),
        *(pytest.param(k, 1, 64, marks=pytest.mark.slow) for k in (1, 2, 4, 7)),
        pytest.param(4, 0, 64, marks=pytest.mark.slow),
    ],
)
def test_turns_equal_those_of_an_engine_that_waits(
    runner: ModelRunner, max_drafts: int, num_ahead: int, max_batch: int
) -> None:
    turns = asked(max_drafts)
    settings = config(max_drafts, max_batch=max_batch)
    expected = Turns(runner, waiting(runner, settings)).run(turns)

    became = Turns(runner, overlapped(runner, settings, num_ahead)).run(turns)

    assert_same(turns, expected, became)
    reasons = {one.finish for one in became}
    assert reasons == {FinishReason.STOP, FinishReason.LENGTH, None}
    assert sum(one.checkpoint_tokens > 0 for one in became) >= 5
    if max_drafts:
        assert sum(one.num_accepted for one in became) > 10


def test_a_turn_whose_end_is_certain_is_in_no_further_step(runner: ModelRunner) -> None:
    slow = SlowDevice(Launcher.of(runner, num_rows=1, max_batch=1, max_drafts=0), 1)
    turn = TurnCase(
        prompt=(1, 2, 3),
        stop=StopRules(max_tokens=5),
        sampling=Sampling(),
        at_step=0,
        num_slots=2,
    )

    def engine(publish: Publish) -> DecodeEngine:
        return DecodeEngine(runner, DecodeMetrics(), publish, config(0), launcher=slow)

    (became,) = Turns(runner, engine).run([turn])

    assert len(became.token_ids) == 5
    # The prompt's pass gave the first token.
    assert slow.num_steps == 4


def test_steps_in_flight_do_not_exceed_the_answers_length(runner: ModelRunner) -> None:
    """Page tables end with the longest context: a wider one does not exist."""
    slow = SlowDevice(Launcher.of(runner, num_rows=1, max_batch=1, max_drafts=4), 2)
    turn = TurnCase(prompt=(1, 2, 3), stop=StopRules(max_tokens=9), sampling=Sampling(), at_step=0)

    def engine(publish: Publish) -> DecodeEngine:
        return DecodeEngine(runner, DecodeMetrics(), publish, config(4), launcher=slow)

    Turns(runner, engine).run([turn])

    assert slow.max_position == 3 + 9 - 1


def test_a_checkpoint_that_a_step_in_flight_may_write_is_not_kept() -> None:
    """The host found the answer's end before a page boundary that the device had already passed."""
    ring = SlotRing(
        slots=tuple(SlotId(i) for i in range(5)),
        state=SlotId(0),
        num_tokens=14,
        checkpoint=SlotId(4),
        checkpoint_tokens=0,
    )
    one, other = (
        DecodeSequence(
            turn=TurnSpec(
                turn_id=TurnId("0"),
                session_id=SessionId("0"),
                context=Prompt((1,) * 14),
                sampling=Sampling(),
                stop=StopRules(max_tokens=256),
            ),
            pages=[],
            resident_tokens=0,
            ring=ring,
            answer=AnswerState(stop=StopRules(max_tokens=256), tokenizer=None),
            sampler=SequenceSampler(Sampling(), vocab_size=9, prompt_ids=()),
            report=ShipReport(),
        )
        for _ in range(2)
    )

    one.stepped(3, 3, 1, PAGE_TOKENS)
    other.stepped(3, 3, 2, PAGE_TOKENS)

    assert (one.num_cached, one.ring.checkpoint) == (15, None)
    assert (other.num_cached, other.ring.checkpoint, other.ring.checkpoint_tokens) == (16, 1, 16)
