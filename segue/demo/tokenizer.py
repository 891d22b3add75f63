"""The demo model's tokenizer: byte-level BPE with Qwen's control tokens, and the chat template.

Every UTF-8 text survives encode and decode: what the merges do not know is spelt in bytes, so one
character may span several tokens. A digit is always a token of its own, so numbers can be copied.
"""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from segue.demo.corpus import Conversation

END_OF_TEXT, IM_START, IM_END = CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Qwen shows these six in the text, so they are added tokens without being special ones.
MARKERS = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
# Words and digits take the space before them along: then a value reads the same wherever it stands.
_PIECES = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def train_tokenizer(texts: Iterable[str], num_tokens: int) -> Tokenizer:
    """A tokenizer of exactly `num_tokens`, merges learnt from `texts`, added tokens at the end."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens - len(CONTROL_TOKENS) - len(MARKERS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS]
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in MARKERS])
    assert tokenizer.get_vocab_size() == num_tokens
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, max_tokens: int, out: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja into `out`."""
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_tokens,
        "bos_token": None,
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "chat_template.jinja").write_text(template_file().read_text())


def render(conversation: Conversation, add_generation_prompt: bool = False) -> str:
    """The conversation as the model reads it, in the environment that transformers uses."""
    return _template().render(
        messages=conversation.messages(),
        tools=list(conversation.tools),
        add_generation_prompt=add_generation_prompt,
    )


def template_file() -> Path:
    """The chat template's source."""
    return Path(__file__).parent / "chat_template.jinja"


@cache
def _template() -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(template_file().read_text())
