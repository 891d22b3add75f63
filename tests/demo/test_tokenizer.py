"""The demo model's tokenizer: lossless, with Qwen's control tokens."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from segue.demo import checkpoint_dir
from segue.demo.tokenizer import CONTROL_TOKENS, MARKERS

TOKENIZER = Tokenizer.from_file(str(checkpoint_dir() / "tokenizer.json"))


@settings(database=None)
@given(st.text())
def test_any_text_survives(text: str) -> None:
    ids = TOKENIZER.encode(text).ids

    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("token", [*CONTROL_TOKENS, *MARKERS])
def test_a_control_token_is_one_token(token: str) -> None:
    assert TOKENIZER.encode(f"a{token}b").tokens == ["a", token, "b"]


def test_only_control_tokens_are_skipped_in_text() -> None:
    ids = TOKENIZER.encode("<|im_start|><tool_call>x</tool_call><|im_end|>").ids

    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "<tool_call>x</tool_call>"


@pytest.mark.parametrize("before", ["is ", "is:", '{"price": ', '{"price":', "1, ", "-", "\n"])
def test_digits_are_single_tokens_in_any_context(before: str) -> None:
    assert TOKENIZER.encode(f"{before}731").tokens[-3:] == ["7", "3", "1"]


@pytest.mark.parametrize("word", ["Reykjavik", "Siobhan", "brillig", "Anna", "xq", "Zoë"])
def test_a_word_has_the_same_tokens_in_any_context(word: str) -> None:
    pieces = TOKENIZER.encode(word).ids

    for before in (" ", "\n", ", ", '": "', "("):
        assert TOKENIZER.encode(f"is{before}{word}.").ids[-len(pieces) - 1 : -1] == pieces


def test_a_frequent_word_is_one_token_with_its_space() -> None:
    assert TOKENIZER.encode("Your name is not known").tokens[:3] == ["Your", "Ġname", "Ġis"]


def test_a_character_may_span_tokens() -> None:
    ids = TOKENIZER.encode("🦔").ids

    assert len(ids) == 4
    assert TOKENIZER.decode(ids) == "🦔"


def test_the_network_has_an_embedding_for_every_token() -> None:
    config = json.loads((checkpoint_dir() / "config.json").read_text())

    assert config["vocab_size"] == TOKENIZER.get_vocab_size()
