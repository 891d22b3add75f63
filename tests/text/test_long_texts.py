"""A long text is encoded in parts: to the same ids, and not beyond the token limit."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Pipeline

from segue.api.errors import ContextOverflow
from segue.text.tokens import tokenizer as module
from segue.text.tokens.tokenizer import Tokenizer

PATTERNS = sorted(module._WORD_PATTERNS)
PIECES = (
    "word",
    "a",
    " ",
    "  ",
    "\n",
    " \n",
    "'s",
    "'S a",
    "e\u0301",
    "\u0301",
    "é",
    "日本",
    "1",
    "...",
    "-",
    "\t",
    "x y",
    "。",
    ",",
    "，你好",
    ": ",
)


def with_pattern(pipeline: Pipeline, pattern: str) -> Tokenizer:
    described = json.loads(pipeline.to_str())
    described["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": pattern}
    return Tokenizer(Pipeline.from_str(json.dumps(described)))


@pytest.fixture(params=PATTERNS, ids=range(len(PATTERNS)))
def tokenizer(request: pytest.FixtureRequest, pipeline: Pipeline) -> Tokenizer:
    return with_pattern(pipeline, request.param)


def test_the_ids_are_the_same_in_parts_and_whole(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PART_CHARACTERS", 5)
    num_parts = 0

    @settings(max_examples=300, derandomize=True)
    @given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
    def check(text: str) -> None:
        nonlocal num_parts
        parts = list(tokenizer._parts(text))
        num_parts += len(parts) - 1

        assert "".join(parts) == text
        whole = tokenizer._pieces.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode_plain(text) == whole

    check()
    assert num_parts > 100


def test_an_unknown_pattern_is_never_cut(pipeline: Pipeline) -> None:
    tokenizer = with_pattern(pipeline, r"\S+ \S+|.|\n")

    assert list(tokenizer._parts("word " * 100_000)) == ["word " * 100_000]


def test_encoding_stops_at_the_limit(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    encode_part = tokenizer._encode_part

    def watched(part: str) -> object:
        encoded.append(part)
        return encode_part(part)

    monkeypatch.setattr(tokenizer, "_encode_part", watched)
    tokenizer.max_ids = 50_000

    with pytest.raises(ContextOverflow, match="more than 50000 tokens"):
        tokenizer.encode("one two " * 100_000)

    assert len(encoded) <= 3
