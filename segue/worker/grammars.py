"""Constraints on the tokens of a worker's turns. Grammars are compiled on a separate thread."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

from segue.api.errors import InvalidRequest
from segue.api.messages import THINK_END
from segue.api.turn import TurnSpec
from segue.grammar.compiler import GrammarCompiler
from segue.grammar.constraint import Constraint
from segue.text.tokens.tokenizer import Tokenizer

Making: TypeAlias = "Future[Constraint | None]"


async def made(making: Making) -> Constraint | None:
    """Waits only if the constraint is not made yet. Raises InvalidRequest."""
    return making.result() if making.done() else await asyncio.wrap_future(making)


class Grammars:
    """Compiles each grammar once, one at a time. The router has compiled it before, within a time
    limit, so this takes no longer.
    """

    def __init__(self, tokenizer: Tokenizer | None, vocab_size: int) -> None:
        """`vocab_size`: that of the logits."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._compiler: GrammarCompiler | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammars")

    def start(self, turn: TurnSpec) -> Making:
        """Starts to make the constraint of a turn, advanced past the answer so far. It is None if
        the turn may get any token. The result may raise InvalidRequest.
        """
        if turn.grammar is None:
            made: Making = Future()
            made.set_result(self._without_grammar(turn))
            return made
        return self._thread.submit(self._with_grammar, turn)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _without_grammar(self, turn: TurnSpec) -> Constraint | None:
        if turn.stop.min_tokens <= turn.num_answered or not turn.stop.stop_token_ids:
            return None
        constraint = Constraint(
            vocab_size=self._vocab_size,
            end_ids=turn.stop.stop_token_ids,
            min_tokens=turn.stop.min_tokens,
        )
        constraint.take(turn.answered_ids)
        return constraint

    def _with_grammar(self, turn: TurnSpec) -> Constraint:
        grammar, tokenizer = turn.grammar, self._tokenizer
        assert grammar is not None
        if tokenizer is None:
            raise InvalidRequest(
                "the form of an answer needs text, and this model is served without a tokenizer"
            )
        if self._compiler is None:
            self._compiler = GrammarCompiler(tokenizer, self._vocab_size)
        constraint = Constraint(
            vocab_size=self._vocab_size,
            end_ids=turn.stop.stop_token_ids,
            min_tokens=turn.stop.min_tokens,
            grammar=self._compiler.compile(grammar),
            reasoning_end=tokenizer.token_id(THINK_END) if grammar.after_reasoning else None,
        )
        constraint.take(turn.answered_ids)
        return constraint
