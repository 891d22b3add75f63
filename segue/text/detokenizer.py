"""Token ids to text as they come, never splitting a character.

A token of byte-level BPE is a run of bytes, and a character may take several tokens. An incremental
UTF-8 decoder holds back the bytes of an unfinished character (three at most), so a token costs the
same at the start of an answer and at its end.
"""

from __future__ import annotations

import codecs
from typing import Protocol


class TokenBytes(Protocol):
    """What is needed of a `Tokenizer`."""

    def token_bytes(self, token_id: int) -> bytes: ...


class Detokenizer:
    """One answer's text. The pieces, joined, are what `Tokenizer.decode` gives for all ids."""

    def __init__(self, tokenizer: TokenBytes) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that became certain. Bytes that cannot become a character are U+FFFD."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """The end: what is left of an unfinished character, as U+FFFD."""
        return self._decoder.decode(b"", final=True)
