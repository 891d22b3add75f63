"""Forty conversations through templates like Qwen's, and the published ones if available: text and
token ids equal those of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from segue.sdk.chat_json import read_chat
from segue.text.tokens.tokenizer import Tokenizer
from tests.real_vocabulary import KINDS, encoder_of, published_template, template
from tests.text.conversations import Drawn, draw

NUM_CONVERSATIONS = 40


@dataclass(frozen=True)
class Both:
    """The same vocabulary here and in transformers."""

    tokenizer: Tokenizer
    oracle: PreTrainedTokenizerFast

    def expected(self, source: str, drawn: Drawn) -> tuple[str, list[int]]:
        def apply(*, tokenize: bool) -> Any:
            return self.oracle.apply_chat_template(
                drawn.messages,
                chat_template=source,
                tokenize=tokenize,
                return_dict=False,
                **drawn.options,
            )

        return apply(tokenize=False), apply(tokenize=True)


@pytest.fixture(scope="module")
def both(real_tokenizer: Tokenizer, real_folder: Path) -> Both:
    return Both(real_tokenizer, PreTrainedTokenizerFast.from_pretrained(real_folder))


def source_of(origin: str, kind: str) -> str:
    return template(kind) if origin == "ours" else published_template(kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("origin", ["ours", "published"])
def test_text_and_ids_are_those_of_transformers(both: Both, origin: str, kind: str) -> None:
    source = source_of(origin, kind)
    encoder = encoder_of(both.tokenizer, source)
    assert encoder.template is not None

    for seed in range(NUM_CONVERSATIONS):
        drawn = draw(seed, inline_thoughts=kind != "3.8")
        text, ids = both.expected(source, drawn)
        chat = read_chat(drawn.body)

        assert encoder.template.render(chat) == text, f"seed {seed}"
        assert list(encoder.encode(chat)) == ids, f"seed {seed}"
