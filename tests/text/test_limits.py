from __future__ import annotations

import pytest

from segue.api.errors import ContextOverflow, InvalidRequest
from segue.api.types import Sampling, StopConditions
from segue.text.limits import validate_against_vocab, validate_length, validate_prompt


def test_ids_inside_the_vocabulary_pass() -> None:
    params = Sampling(logit_bias={0: 1.0, 99: -1.0})

    validate_against_vocab(params, StopConditions(stop_token_ids=(0, 99)), 100)


def test_a_bias_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"logit_bias: .* 0 to 99, got 100"):
        validate_against_vocab(Sampling(logit_bias={100: 1.0}), StopConditions(), 100)


def test_a_stop_token_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"stop_token_ids: .* got 100"):
        validate_against_vocab(Sampling(), StopConditions(stop_token_ids=(5, 100)), 100)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="at least one token"):
        validate_length(0, 10)


@pytest.mark.parametrize("bad", [-1, 100])
def test_an_id_outside_the_vocabulary_is_named_with_its_index(bad: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"prompt\[2\]: .* 0 to 99, got {bad}"):
        validate_prompt([1, 2, bad, 3], 100)


def test_a_prompt_must_leave_room_for_at_least_one_token() -> None:
    validate_length(9, 10)

    with pytest.raises(
        ContextOverflow, match=r"prompt is too long: 10 tokens > 9 maximum.* context is 10 tokens"
    ):
        validate_length(10, 10)
