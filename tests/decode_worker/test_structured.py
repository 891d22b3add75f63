"""Answers that follow a grammar: valid, and the same with and without drafts, on any stepper."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import jsonschema
import pytest

from decode_worker.config import DecodeConfig
from decode_worker.engine.engine import DecodeEngine
from decode_worker.metrics import DecodeMetrics
from segue.api.turn import FinishReason
from segue.api.types import JsonSchema, Regex, Sampling, StopRules
from segue.demo import checkpoint_dir
from segue.engine.device.launcher import Launcher
from segue.engine.runner import ModelRunner
from segue.grammar.build import GrammarSpec, build
from segue.grammar.compiler import CompiledGrammar, GrammarCompiler
from segue.text.tokens.tokenizer import Tokenizer
from tests.decode_worker.engines import (
    MAX_RUNNING,
    SlowDevice,
    TurnCase,
    TurnOutcome,
    Turns,
    runner_of,
)
from tests.grammar.schemas import random_schema

AT_ONCE = 4
MAX_TOKENS = 80


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return runner_of(checkpoint_dir())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(Path(checkpoint_dir()))


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer, runner: ModelRunner) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, runner.config.vocab_size)


def compiled(compiler: GrammarCompiler, output: JsonSchema | Regex) -> CompiledGrammar:
    return compiler.compile(build(GrammarSpec(output=output)).grammar)


def end_id(tokenizer: Tokenizer) -> int:
    token_id = tokenizer.token_id("<|im_end|>")
    assert token_id is not None
    return token_id


def prompt_of(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"))


def answers(
    runner: ModelRunner, asked: Sequence[TurnCase], *, max_drafts: int, device: int | None = None
) -> list[TurnOutcome]:
    """`device`: steps that are launched ahead; None: the host computes each."""
    launcher = None
    if device is not None:
        launcher = SlowDevice(
            Launcher.of(runner, num_rows=MAX_RUNNING, max_batch=MAX_RUNNING, max_drafts=max_drafts),
            device,
        )
    config = DecodeConfig(max_drafts=max_drafts, adaptive_drafts=False)
    found: list[TurnOutcome] = []
    at_once = AT_ONCE if asked[0].stop.max_tokens <= MAX_TOKENS else AT_ONCE - 1
    for start in range(0, len(asked), at_once):
        turns = Turns(
            runner,
            lambda publish: DecodeEngine(
                runner, DecodeMetrics(), publish, config, launcher=launcher
            ),
        )
        found += turns.run(asked[start : start + at_once])
    return found


def case(
    tokenizer: Tokenizer,
    grammar: CompiledGrammar | None,
    *,
    seed: int = 0,
    temperature: float = 0.0,
    text: str = "My name is Anna and I live in Lisbon.",
    max_tokens: int = MAX_TOKENS,
    min_tokens: int = 0,
    reasoning_end: int | None = None,
    has_logprobs: bool = False,
) -> TurnCase:
    # The demo model never learned JSON, and would fill the answer with spaces.
    spaces = {i for i in range(tokenizer.num_ids) if tokenizer.token_bytes(i).isspace()}
    bias = dict.fromkeys(spaces, -100.0) if grammar else {}
    return TurnCase(
        prompt=prompt_of(tokenizer, text),
        stop=StopRules(
            max_tokens=max_tokens, stop_token_ids=(end_id(tokenizer),), min_tokens=min_tokens
        ),
        sampling=Sampling(
            temperature=temperature,
            seed=seed,
            top_p=0.95,
            logit_bias=bias,
            logprobs=2 if has_logprobs else None,
        ),
        at_step=0,
        grammar=grammar,
        reasoning_end=reasoning_end,
    )


@pytest.mark.parametrize(
    ("numbers", "max_tokens"),
    [
        (range(20), MAX_TOKENS),
        *(
            pytest.param(range(first, first + 100), 160, marks=pytest.mark.slow)
            for first in range(0, 400, 100)
        ),
    ],
    ids=["short", "200 schemas, 1", "2", "3", "4"],
)
def test_every_answer_is_valid_and_drafts_change_no_token(
    runner: ModelRunner,
    tokenizer: Tokenizer,
    compiler: GrammarCompiler,
    numbers: range,
    max_tokens: int,
) -> None:
    """Of all 200 schemas one answer is greedy and one is sampled; of the first 20, one of them."""
    seeds = [number % 200 for number in numbers]
    schemas = [random_schema(seed) for seed in seeds]
    asked = [
        case(
            tokenizer,
            compiled(compiler, JsonSchema(json.dumps(schema))),
            seed=seed,
            temperature=0.8 * ((seed + number // 200) % 2),
            max_tokens=max_tokens,
        )
        for number, seed, schema in zip(numbers, seeds, schemas, strict=True)
    ]

    drafted = answers(runner, asked, max_drafts=3)
    plain = answers(runner, asked, max_drafts=0)

    assert [one.token_ids for one in drafted] == [one.token_ids for one in plain]
    assert sum(one.num_accepted for one in drafted) > 0
    ended = 0
    for schema, one in zip(schemas, drafted, strict=True):
        if one.finish is FinishReason.STOP:
            ended += 1
            jsonschema.validate(json.loads(tokenizer.decode(one.token_ids)), schema)
    assert ended >= 0.6 * len(schemas), "the others had no room"


@pytest.mark.parametrize("num_ahead", [0, 1])
def test_a_device_gives_the_tokens_of_the_host(
    runner: ModelRunner, tokenizer: Tokenizer, compiler: GrammarCompiler, num_ahead: int
) -> None:
    """Beside turns without a grammar and one that may not end early. All have drafts."""
    grammar = compiled(compiler, JsonSchema(json.dumps(random_schema(5))))
    numbers = compiled(compiler, Regex("[0-9]{3}( [a-c]{2,4}){2}"))
    asked = [
        case(tokenizer, grammar, temperature=0.7, seed=3, max_tokens=60),
        case(tokenizer, None, text="Count from 1 to 20."),
        case(tokenizer, numbers),
        case(tokenizer, None, min_tokens=25, max_tokens=40),
    ]

    on_host = answers(runner, asked, max_drafts=0)
    on_device = answers(runner, asked, max_drafts=4, device=num_ahead)

    assert [one.token_ids for one in on_device] == [one.token_ids for one in on_host]
    assert all(one.num_accepted > 0 for one in on_device)
    assert len(on_host[3].token_ids) >= 25


@pytest.mark.parametrize("device", [None, 0, 1])
def test_a_grammar_starts_after_the_reasoning(
    runner: ModelRunner, tokenizer: Tokenizer, compiler: GrammarCompiler, device: int | None
) -> None:
    """A full stop stands for </think>, which the demo model never writes."""
    output = Regex("[0-9]{2}")
    grammar = compiler.compile(build(GrammarSpec(output=output, after_reasoning=True)).grammar)
    (full_stop,) = tokenizer.encode(".")
    text = "What is the router?"
    free = answers(runner, [case(tokenizer, None, text=text)], max_drafts=0)[0].token_ids
    reasoning = free[: free.index(full_stop) + 1]

    asked = case(tokenizer, grammar, text=text, reasoning_end=full_stop)
    (found,) = answers(runner, [asked], max_drafts=4, device=device)

    assert found.token_ids[: len(reasoning)] == reasoning
    rest = tokenizer.decode(found.token_ids[len(reasoning) :])
    assert rest.strip("\n").isdigit()
    assert len(rest.strip("\n")) == 2
    assert found.finish is FinishReason.STOP


def test_log_probabilities_are_those_of_the_model(
    runner: ModelRunner, tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    """Before masks: the best alternative may be one that the grammar forbids."""
    grammar = compiled(compiler, Regex("[0-9]{4}"))

    (masked,) = answers(runner, [case(tokenizer, grammar, has_logprobs=True)], max_drafts=0)
    (free,) = answers(
        runner, [case(tokenizer, None, has_logprobs=True, max_tokens=1)], max_drafts=0
    )

    assert masked.logprobs[0].token_id != free.logprobs[0].token_id
    assert masked.logprobs[0].top_logprobs == free.logprobs[0].top_logprobs


def test_an_answer_continues_until_it_may_end(runner: ModelRunner, tokenizer: Tokenizer) -> None:
    (short,) = answers(runner, [case(tokenizer, None)], max_drafts=2)

    for num in (len(short.token_ids), len(short.token_ids) + 1, 30):
        asked = case(tokenizer, None, min_tokens=num, max_tokens=30)
        with_drafts, without = (
            answers(runner, [asked], max_drafts=max_drafts)[0] for max_drafts in (2, 0)
        )

        assert with_drafts.token_ids == without.token_ids
        assert with_drafts.token_ids[: len(short.token_ids) - 1] == short.token_ids[:-1]
        assert len(with_drafts.token_ids) >= num
