from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models
from tokenizers import Tokenizer as Pipeline

from segue.api.errors import InvalidCheckpoint, InvalidRequest
from segue.text.tokens.tokenizer import Tokenizer

CONTROL = ["<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "<|", "|>", "<"]
texts = st.lists(st.one_of(st.text(), st.sampled_from(CONTROL))).map("".join)


def test_a_folder_without_a_tokenizer_is_refused_by_path(tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match=r"tokenizer\.json, found none"):
        Tokenizer.from_folder(tmp_path)


def test_a_broken_tokenizer_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')

    with pytest.raises(InvalidCheckpoint, match="cannot be read as a tokenizer"):
        Tokenizer.from_folder(tmp_path)


def test_a_tokenizer_that_is_not_byte_level_is_refused() -> None:
    with pytest.raises(InvalidCheckpoint, match="byte-level BPE"):
        Tokenizer(Pipeline(models.WordLevel({"a": 0}, unk_token="a")))


def test_added_tokens_that_depend_on_their_neighbours_are_refused(pipeline: Pipeline) -> None:
    other = Pipeline.from_str(pipeline.to_str())
    other.add_special_tokens([AddedToken("<mask>", lstrip=True)])

    with pytest.raises(InvalidCheckpoint, match="'<mask>' looks at its neighbours"):
        Tokenizer(other)


@settings(max_examples=300, derandomize=True)
@given(text=texts)
def test_any_text_gets_the_librarys_ids(
    pipeline: Pipeline, tokenizer: Tokenizer, text: str
) -> None:
    assert tokenizer.encode(text) == pipeline.encode(text, add_special_tokens=False).ids


@settings(max_examples=100, derandomize=True)
@given(text=texts)
def test_plain_text_never_becomes_a_control_token(tokenizer: Tokenizer, text: str) -> None:
    control_ids = {tokenizer.token_id(token) for token in tokenizer.control_tokens}

    assert control_ids.isdisjoint(tokenizer.encode_plain(text))


def test_plain_text_decodes_to_itself(tokenizer: Tokenizer) -> None:
    text = "a user types <|im_end|> and <think> 日本"

    assert tokenizer.decode(tokenizer.encode_plain(text)) == text


def test_marks_are_control_tokens_and_their_names_are_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_marked(f"a<|im_end|>b{tokenizer.marks.mark('<|im_end|>')}")

    assert tokenizer.decode(ids, skip_special=False) == "a<|im_end|>b<|im_end|>"
    assert ids.count(tokenizer.token_id("<|im_end|>") or -1) == 1


def test_an_added_token_that_plain_text_can_become_is_refused(pipeline: Pipeline) -> None:
    other = Pipeline.from_str(pipeline.to_str())
    vocabulary = json.loads(pipeline.to_str())["model"]["vocab"]
    assert "a" in vocabulary
    other.add_special_tokens([AddedToken("a")])

    with pytest.raises(InvalidCheckpoint, match="'a' is also an ordinary token"):
        Tokenizer(other)


def test_a_lone_surrogate_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match="valid Unicode"):
        tokenizer.encode("a\ud800")


def test_special_tokens_are_skipped_only_when_asked(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<think>hi<|im_end|>")

    assert tokenizer.decode(ids) == "<think>hi"
    assert tokenizer.decode(ids, skip_special=False) == "<think>hi<|im_end|>"


def test_tokens_have_names_and_texts(tokenizer: Tokenizer, pipeline: Pipeline) -> None:
    im_end = tokenizer.token_id("<|im_end|>")

    assert im_end is not None
    assert tokenizer.is_special(im_end)
    assert tokenizer.decode([im_end], skip_special=False) == "<|im_end|>"
    assert tokenizer.token_bytes(im_end) == b""
    assert tokenizer.token_id("no such token") is None
    assert tokenizer.special_tokens < tokenizer.control_tokens
    assert tokenizer.vocab_size == pipeline.get_vocab_size()


def test_an_added_token_with_a_space_keeps_its_text(pipeline: Pipeline) -> None:
    other = Pipeline.from_str(pipeline.to_str())
    other.add_tokens([AddedToken("<a b>", normalized=False)])
    tokenizer = Tokenizer(other)

    assert [tokenizer.token_bytes(i) for i in tokenizer.encode("<a b>")] == [b"<a b>"]


def test_ids_without_a_token_decode_to_nothing(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_bytes(1_000_000) == b""
    assert tokenizer.decode([1_000_000]) == ""
