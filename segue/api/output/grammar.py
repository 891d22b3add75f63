"""What workers get in place of a client's output format."""

from __future__ import annotations

from dataclasses import dataclass

from segue.api.checks import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """Which tokens an answer may have. Equal grammars are compiled once."""

    text: str
    """A structural tag of xgrammar, in JSON."""
    after_reasoning: bool = False
    """The prompt ends inside reasoning, and the grammar starts after its end."""
    without_controls: bool = False
    """No token with a control character but a line end, such as a tab."""

    def __post_init__(self) -> None:
        require(bool(self.text), "expected the text of a grammar, got an empty one")
