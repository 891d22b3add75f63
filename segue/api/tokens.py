"""Tokens without a turn: the values of the calls that tokenise and detokenise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Detokenized:
    text: str
    """Without special tokens."""
    tokens: tuple[bytes, ...]
    """The bytes of each token's text, which may be part of a character. Special tokens have their
    names."""
