from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Pipeline

from segue.text.tokens.detokenizer import Detokenizer
from segue.text.tokens.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"


def pieces_of(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.flush()]


@settings(max_examples=300, derandomize=True)
@given(text=st.text())
def test_pieces_join_to_the_text_and_none_splits_a_character(
    tokenizer: Tokenizer, text: str
) -> None:
    ids = tokenizer.encode_plain(text)

    pieces = pieces_of(tokenizer, ids)

    assert "".join(pieces) == tokenizer.decode(ids)
    # Valid UTF-8 has no replacement characters except its own, so a split character would show.
    assert sum(piece.count(REPLACEMENT) for piece in pieces) == tokenizer.decode(ids).count(
        REPLACEMENT
    )


@settings(max_examples=500, derandomize=True)
@given(ids=st.lists(st.integers(0, 620), max_size=40))
def test_pieces_join_to_the_librarys_text_for_any_ids(
    pipeline: Pipeline, tokenizer: Tokenizer, ids: list[int]
) -> None:
    assert "".join(pieces_of(tokenizer, ids)) == pipeline.decode(ids, skip_special_tokens=True)


@settings(max_examples=300, derandomize=True)
@given(blob=st.binary(max_size=24))
def test_any_bytes_decode_as_in_the_library(
    pipeline: Pipeline, tokenizer: Tokenizer, blob: bytes
) -> None:
    id_of_byte = {tokenizer.token_bytes(token_id): token_id for token_id in range(620)}
    ids = [id_of_byte[bytes([byte])] for byte in blob]

    assert "".join(pieces_of(tokenizer, ids)) == pipeline.decode(ids)


def test_a_character_appears_with_its_last_token(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_plain("🦉")

    pieces = pieces_of(tokenizer, ids)

    assert len(ids) > 1
    assert pieces == ["", *[""] * (len(ids) - 2), "🦉", ""]


def test_an_unfinished_character_is_replaced_only_at_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_plain("🦉")[:-1]

    pieces = pieces_of(tokenizer, ids)

    assert "".join(pieces[:-1]) == ""
    assert pieces[-1] == REPLACEMENT


def test_a_character_that_can_no_longer_be_finished_is_replaced_at_once(
    tokenizer: Tokenizer,
) -> None:
    ids = [*tokenizer.encode_plain("🦉")[:-1], *tokenizer.encode_plain("!")]

    pieces = pieces_of(tokenizer, ids)

    assert pieces[-2] == REPLACEMENT + "!"


def test_special_tokens_have_no_text_and_do_not_break_characters(tokenizer: Tokenizer) -> None:
    first, *rest = tokenizer.encode_plain("🦉")
    im_end = tokenizer.encode("<|im_end|>")

    assert "".join(pieces_of(tokenizer, [first, *im_end, *rest])) == "🦉"
