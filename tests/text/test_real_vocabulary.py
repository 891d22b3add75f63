"""Templates in the manner of Qwen's do what the published ones do; skipped without a copy."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from segue.model.config import ModelConfig
from segue.text.tokenizer import Tokenizer
from tests.real_vocabulary import IM_END, IM_START, KINDS, VOCAB_SIZE, MakeReal, template


def test_the_vocabulary_is_the_published_one(real_checkpoint: Path) -> None:
    tokenizer = Tokenizer.from_folder(real_checkpoint)

    assert tokenizer.vocab_size == 248_077
    assert ModelConfig.from_folder(real_checkpoint).vocab_size == VOCAB_SIZE
    assert tokenizer.encode("<|im_start|>user\nHello<|im_end|>") == [
        *(IM_START, 846, 198, 9419),
        IM_END,
    ]
    assert tokenizer.token_id("</think>") == 248_069


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_template_renders(kind: str, make_real_text: MakeReal) -> None:
    oracle = PreTrainedTokenizerFast.from_pretrained(make_real_text(template(kind)))

    prompt = oracle.apply_chat_template(
        [{"role": "user", "content": " Hello "}], tokenize=False, add_generation_prompt=True
    )

    assert "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n<think>\n" in prompt
