"""A prompt's last token is computed when it is known which token may follow."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, cast

from prefill_worker.engine import PrefillSequence
from prefill_worker.scheduler import plan_chunks
from segue.api.prompt import Prompt
from segue.api.turn import TurnSpec
from segue.api.types import Sampling, SessionId, SlotId, StopRules, TurnId
from segue.grammar.constraint import Constraint
from segue.worker.grammars import Making


def sequence(making: Making | None, num_tokens: int) -> PrefillSequence:
    return PrefillSequence(
        turn=TurnSpec(
            turn_id=TurnId("t"),
            session_id=SessionId("s"),
            context=Prompt(range(num_tokens)),
            sampling=Sampling(),
            stop=StopRules(max_tokens=3),
        ),
        pages=(),
        slot=SlotId(0),
        outgoing=cast(Any, None),
        done=lambda _: None,
        constraint=making,
    )


def test_all_but_the_last_token_is_computed_while_a_grammar_compiles() -> None:
    making: Making = Future()
    waiting = sequence(making, 9)

    (chunk,) = plan_chunks([waiting.progress], 100)
    waiting.num_computed = chunk.end
    assert (chunk.start, chunk.end) == (0, 8)
    assert plan_chunks([waiting.progress], 100) == []

    making.set_result(Constraint(vocab_size=32, end_ids=[1]))
    (last,) = plan_chunks([waiting.progress], 100)
    assert (last.start, last.end) == (8, 9)


def test_other_prompts_do_not_wait_for_it() -> None:
    making: Making = Future()

    chunks = plan_chunks([sequence(making, 1).progress, sequence(None, 5).progress], 100)

    assert [(chunk.index, chunk.end) for chunk in chunks] == [(1, 5)]
