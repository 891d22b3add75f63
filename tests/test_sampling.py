"""Sampling fields that a client leaves open, and where their values come from."""

from __future__ import annotations

import struct

import pytest

from segue.api.errors import InvalidRequest
from segue.api.types import Sampling, SamplingParams, StopConditions, StopRules
from segue.wire.convert.request import as_typed


def as_on_the_wire(value: float) -> float:
    narrow: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return narrow


def test_without_defaults_open_fields_are_neutral() -> None:
    assert SamplingParams().resolved() == Sampling()
    assert Sampling().is_greedy


def test_a_fields_value_is_the_clients_or_the_checkpoints_or_neutral() -> None:
    checkpoint = SamplingParams(temperature=0.6, top_k=20, top_p=0.95)

    sampling = SamplingParams(top_k=5, seed=7).resolved(checkpoint)

    assert sampling == Sampling(temperature=0.6, top_k=5, top_p=0.95, seed=7)


def test_a_clients_zero_is_not_an_open_field() -> None:
    checkpoint = SamplingParams(temperature=0.6, top_k=20, min_p=0.1)

    sampling = SamplingParams(temperature=0.0, top_k=0, min_p=0.0).resolved(checkpoint)

    assert sampling == Sampling()


def test_a_bias_and_logprobs_are_passed_on() -> None:
    params = SamplingParams(logit_bias={3: 1.0}, logprobs=0)

    assert params.resolved() == Sampling(logit_bias={3: 1.0}, logprobs=0)


@pytest.mark.parametrize("kind", [SamplingParams, Sampling])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1.0}, "temperature must be between 0 and 100, got -1"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_k": -1}, r"top_k \(0 keeps every token\) must be between 0 and 2147483647, got -1"),
        ({"top_k": 2**31}, "must be between 0 and 2147483647, got 2147483648"),
        ({"repetition_penalty": 0.009}, "repetition_penalty must be between 0.01"),
        ({"seed": 2**63}, "seed must be between 0 and 9223372036854775807"),
        ({"logit_bias": {-1: 0.0}}, "token id of logit_bias must be between 0 and 4294967295"),
        ({"logit_bias": {2**32: 0.0}}, "must be between 0 and 4294967295, got 4294967296"),
        ({"logprobs": 21}, "logprobs must be between 0 and 20"),
        ({"prompt_logprobs": -1}, "prompt_logprobs must be between 0 and 20, got -1"),
    ],
)
def test_given_values_are_checked(
    kind: type[SamplingParams] | type[Sampling], values: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        kind(**values)  # type: ignore[arg-type]  # wrong on purpose


def test_a_bound_that_lost_digits_on_the_wire_is_still_valid() -> None:
    assert as_on_the_wire(0.01) < 0.01

    assert as_typed(as_on_the_wire(0.01)) == 0.01
    assert Sampling(repetition_penalty=as_typed(as_on_the_wire(0.01)))


def test_an_answer_of_no_tokens_is_refused_and_an_open_one_is_not() -> None:
    assert StopConditions().max_tokens is None
    for kind in (StopConditions, StopRules):
        with pytest.raises(
            InvalidRequest, match="max_tokens must be between 1 and 2147483647, got 0"
        ):
            kind(max_tokens=0)
