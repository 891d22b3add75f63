"""Incremental detokenization that never splits a character.

A byte-level BPE token is a run of bytes, and a character may take several tokens. An incremental
UTF-8 decoder holds back the bytes of an unfinished character (at most three), so the cost per token
does not grow with the answer.
"""

from __future__ import annotations

import codecs
from typing import Protocol


class TokenBytes(Protocol):
    """The part of `Tokenizer` that is used here."""

    def token_bytes(self, token_id: int) -> bytes: ...


class Detokenizer:
    """One answer's text. The pieces, joined, equal `Tokenizer.decode` of all ids."""

    def __init__(self, tokenizer: TokenBytes) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that is now final. Bytes that cannot form a character become U+FFFD."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """The rest: an unfinished character becomes U+FFFD."""
        return self._decoder.decode(b"", final=True)
