"""A small checkpoint's tokenizer and template: byte-level BPE with Qwen's control tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Pipeline

from segue.text.tokens.tokenizer import Tokenizer
from tests.real_vocabulary import MakeReal, template

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FORMAT_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>")

_WORDS = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_TEXTS = (
    "The train to Paris leaves at 9:15 and arrives at noon; the next one leaves at 11:40.",
    "Grüße aus München! Où est la gare? Привет, как дела? 日本語の文章 👋🏽 ½ ≠ ¾",
    '{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}',
    "user assistant system tool im_start im_end think tool_call tool_response",
)

TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' + (tool | tojson) }}
    {%- endfor %}
    {{- '\\n</tools>\\n<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' and not loop.first %}
        {{- raise_exception('System message must be at the beginning.') }}
    {%- endif %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n<|im_end|>\\n' }}
        {%- continue %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.reasoning_content %}
        {{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n<tool_call>\\n<function=' + call.function.name + '>\\n' }}
        {%- for key, value in call.function.arguments | items %}
            {{- '<parameter=' + key + '>\\n' }}
            {{- (value if value is string else value | tojson) + '\\n</parameter>\\n' }}
        {%- endfor %}
        {{- '</function>\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {{- '<think>\\n' if enable_thinking else '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}
"""


@pytest.fixture(scope="session")
def pipeline() -> Pipeline:
    """A vocabulary of 600 tokens: many characters need several."""
    pipeline = Pipeline(models.BPE())
    pipeline.normalizer = normalizers.NFC()
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pipeline.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pipeline.train_from_iterator(_TEXTS * 2, trainer)
    pipeline.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    pipeline.add_tokens([AddedToken(token, normalized=False) for token in FORMAT_TOKENS])
    return pipeline


@pytest.fixture(scope="session")
def text_folder(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    folder = tmp_path_factory.mktemp("text")
    pipeline.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="session")
def tokenizer(text_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(text_folder)


@pytest.fixture(scope="session")
def real_folder(make_real_text: MakeReal) -> Path:
    """The real vocabulary, with a template like Qwen3.5's."""
    return make_real_text(template("3.5"))
