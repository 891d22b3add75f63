"""Text from tokens as they arrive: detokenization, and stop strings.

A byte-level BPE token is a run of bytes, and a character may take several tokens. An incremental
UTF-8 decoder holds back the bytes of an unfinished character (at most three), so the cost per token
does not grow with the answer.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
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
        """The text that is now certain. Bytes that cannot form a character become U+FFFD."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """The rest: an unfinished character becomes U+FFFD."""
        return self._decoder.decode(b"", final=True)


class StopStringMatcher:
    """Finds stop strings in a text that arrives in pieces, and holds back only a possible match.

    The first complete match wins; of several that end together, the longest. One Knuth-Morris-Pratt
    automaton per stop string: its state is the length of the stop string's prefix that the text
    ends with, so exactly the longest state must be held back. Neither the result nor the cost per
    character depends on how the text is cut into pieces.
    """

    def __init__(self, stop_strings: Sequence[str]) -> None:
        self._automata = [_Automaton(stop) for stop in stop_strings]
        self._held = ""
        self._has_matched = False

    def push(self, text: str) -> tuple[str, str | None]:
        """The text that is safe to send, and the stop string that ended it, if there is one.

        Must not be called after a match.
        """
        assert not self._has_matched
        if not self._automata:
            return text, None
        text, start = self._held + text, len(self._held)
        for end, character in enumerate(text[start:], start + 1):
            match = self._step(character)
            if match is not None:
                self._has_matched = True
                self._held = ""
                return text[: end - len(match)], match
        num_held = max(automaton.num_matched for automaton in self._automata)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held], None

    def flush(self) -> str:
        """The text that was held back; empty after a match."""
        held, self._held = self._held, ""
        return held

    def _step(self, character: str) -> str | None:
        matches = [automaton.stop for automaton in self._automata if automaton.step(character)]
        return max(matches, key=len, default=None)


class _Automaton:
    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.num_matched = 0
        self._shorter = _borders(stop)

    def step(self, character: str) -> bool:
        """Whether the stop string is complete with this character."""
        matched = self.num_matched
        while matched and self.stop[matched] != character:
            matched = self._shorter[matched]
        if self.stop[matched] == character:
            matched += 1
        self.num_matched = matched
        return matched == len(self.stop)


def _borders(stop: str) -> list[int]:
    """For each length n: the longest proper prefix of stop[:n] that is also its suffix."""
    borders = [0, 0]
    for character in stop[1:]:
        border = borders[-1]
        while border and stop[border] != character:
            border = borders[border]
        borders.append(border + 1 if stop[border] == character else 0)
    return borders
