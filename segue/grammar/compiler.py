"""Compiles grammars for the tokens of a vocabulary."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from cachetools import LRUCache

from segue.api.errors import InvalidRequest
from segue.api.types import Grammar
from segue.grammar.library import xgrammar
from segue.text.tokens.tokenizer import Tokenizer

_CACHE_BYTES = 256 << 20
_LINE_ENDS = b"\n\r"
# xgrammar starts a message with the time and the place in its source.
_PLACE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")


class CompiledGrammar:
    def __init__(self, compiled: Any, allowed_words: np.ndarray | None) -> None:
        self.compiled = compiled
        self.allowed_words = allowed_words
        """int32 bits: tokens that may occur at all; None for all."""

    def matcher(self, end_ids: list[int]) -> Any:
        """A matcher at the grammar's start, which takes one of these tokens where it may end."""
        return xgrammar().GrammarMatcher(self.compiled, override_stop_tokens=end_ids)

    def allows_a_token(self, vocab_size: int) -> bool:
        """Whether an answer can start, or be empty."""
        words = np.zeros((1, num_words(vocab_size)), dtype=np.int32)
        self.matcher([vocab_size - 1]).fill_next_token_bitmask(words)
        return bool(words.any())

    @property
    def size_bytes(self) -> int:
        return int(self.compiled.memory_size_bytes)


class GrammarCompiler:
    """Caches up to 256 MiB of grammars. One thread at a time; compiling releases the GIL."""

    def __init__(
        self, tokenizer: Tokenizer, vocab_size: int, *, cache_bytes: int = _CACHE_BYTES
    ) -> None:
        """`vocab_size`: the number of logits; ids without a token never occur."""
        library = xgrammar()
        tokens = [
            tokenizer.token_bytes(token_id)
            for token_id in range(min(tokenizer.num_ids, vocab_size))
        ]
        # Stop tokens are given to each turn's matcher. One given here could end every grammar.
        info = library.TokenizerInfo(
            tokens, vocab_type=library.VocabType.RAW, vocab_size=vocab_size, stop_token_ids=[]
        )
        self._compiler = library.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self._plain_words = _words([not _has_control(token) for token in tokens], vocab_size)
        self._cache: LRUCache[Grammar, CompiledGrammar] = LRUCache(
            cache_bytes, getsizeof=lambda compiled: compiled.size_bytes
        )

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Raises InvalidRequest."""
        found = self._cache.get(grammar)
        if found is not None:
            return found
        try:
            compiled = self._compiler.compile_structural_tag(grammar.text)
        except (RuntimeError, ValueError) as error:
            raise InvalidRequest(plain_message(error)) from None
        words = self._plain_words if grammar.without_controls else None
        made = CompiledGrammar(compiled, words)
        if made.size_bytes <= self._cache.maxsize:
            self._cache[grammar] = made
        return made


def num_words(vocab_size: int) -> int:
    return -(-vocab_size // 32)


def plain_message(error: Exception) -> str:
    text = str(error)
    if isinstance(error, UnicodeDecodeError):
        # xgrammar quotes one byte of a character; Python cannot read the message then.
        text = error.object.decode(errors="replace").replace(
            "\ufffd", "one that is not ASCII, without quotes"
        )
    return _PLACE.sub("", text).strip().rstrip(".")


def _has_control(token: bytes) -> bool:
    return any(byte < 0x20 and byte not in _LINE_ENDS for byte in token)


def _words(allowed: list[bool], vocab_size: int) -> np.ndarray:
    bits = np.zeros(num_words(vocab_size) * 32, dtype=bool)
    bits[: len(allowed)] = allowed
    return np.packbits(bits, bitorder="little").view(np.int32)
