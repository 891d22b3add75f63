"""The demo model's tokenizer: byte-level BPE with Qwen's control tokens, and the chat template.

Every UTF-8 text survives encode and decode: text without merges is encoded as bytes, so one
character may span several tokens. A digit is always its own token. A word outside the most frequent
ones has the same pieces with and without a space before it, so copying does not depend on a value's
place.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from segue.demo.corpus.conversations import DemoConversation

END_OF_TEXT, IM_START, IM_END = CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Qwen shows these six in the text, so they are added tokens but not special ones.
MARKERS = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
# A word includes the space before it, punctuation the one after it; a number has none. So "is 21",
# ": 21" and ":21" all end in the same two tokens.
_WITH_SPACES = r" ?\p{L}+|\p{N}|-|[^\s\p{L}\p{N}-]+ ?|\s+(?!\S)|\s+"
# The pattern for learning merges within words.
_WITHOUT_SPACES = r"\p{L}+|\p{N}|-|[^\s\p{L}\p{N}-]+ ?|\s"
# The number of words with a token that includes their space.
_NUM_SPACED = 300
_SPACE = "Ġ"
_ADDED = re.compile("|".join(re.escape(token) for token in (*CONTROL_TOKENS, *MARKERS)))


def train_tokenizer(texts: Sequence[str], num_tokens: int) -> Tokenizer:
    """A tokenizer of exactly `num_tokens`, with merges learnt from `texts`; added tokens come
    last."""
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens - len(CONTROL_TOKENS) - len(MARKERS) - _NUM_SPACED,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = _pieces(_WITHOUT_SPACES)
    bare.train_from_iterator((_ADDED.sub("\n", text) for text in texts), trainer)
    learnt = json.loads(bare.to_str())["model"]
    vocabulary = dict(learnt["vocab"])
    merges = [(left, right) for left, right in learnt["merges"]]
    for word in _frequent_words(texts, vocabulary):
        merges.append((_SPACE, word))
        vocabulary[_SPACE + word] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = _pieces(_WITH_SPACES)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS]
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in MARKERS])
    assert tokenizer.get_vocab_size() == num_tokens
    return tokenizer


def _pieces(regex: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _frequent_words(texts: Sequence[str], vocabulary: Mapping[str, int]) -> list[str]:
    """The words that most often follow a space, among those that are one token."""
    counts = Counter(word for text in texts for word in re.findall(r" ([A-Za-z]{2,}|[aI])\b", text))
    # A capital starts a name, whose pieces stay the same without the space.
    common = [w for w, _ in counts.most_common() if w in vocabulary and (w.islower() or w == "I")]
    return common[:_NUM_SPACED]


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


def render(conversation: DemoConversation, add_generation_prompt: bool = False) -> str:
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
