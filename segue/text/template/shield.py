"""Keeps a client's text from being read as control tokens.

A chat template joins its own control tokens and the client's strings into one text, in which
"<|im_end|>" typed by a user looks like the end of the message, and so does "<|im_end|" before a ">"
of the template. So in the template's own literals, each control token is replaced by a *mark*, a
character that no client's text can contain (a lone surrogate, see `segue/api/messages.py`). The
template runs on the client's strings unchanged. In its output a mark is a control token and
everything else is text (`Tokenizer.encode_marked`).

This is done once for each template, in its syntax tree. A literal that the template only searches
for, as in `'</think>' in content` or `content.split('</think>')`, stays as it is.

One kind of text keeps its control tokens: the assistant's content and reasoning, which are the
model's own. Reasoning and calls that stayed in its text are replayed as the original tokens, as in
transformers; special tokens such as `<|im_end|>` are not (`assistant_text.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from jinja2 import nodes

from segue.api.errors import InvalidCheckpoint

_SURROGATES = range(0xD800, 0xE000)
END_MARK = chr(_SURROGATES[-1])
"""Represents no token; marks the end of a message to continue."""

_WRITTEN_ARGUMENTS = {"default": 0, "d": 0, "join": 0, "format": 0, "replace": 1, "get": 1}
"""Filters and methods: the arguments from this one on may become part of the text."""


class ControlMarks:
    """The marks of one tokenizer's control tokens."""

    def __init__(self, tokens: Iterable[str] = (), special: Iterable[str] = ()) -> None:
        """`special` are tokens that only the template writes, such as those that end messages.

        Raises InvalidCheckpoint for more tokens than there are marks.
        """
        ordered = sorted(set(tokens))
        if len(ordered) > len(_SURROGATES) - 1:
            raise InvalidCheckpoint(
                f"expected a tokenizer with at most {len(_SURROGATES) - 1} added tokens, got "
                f"{len(ordered)}: serve another checkpoint"
            )
        self.token_of = {chr(code): t for code, t in zip(_SURROGATES, ordered, strict=False)}
        self._mark_of = {token: mark for mark, token in self.token_of.items()}
        self.answer_tokens = frozenset(ordered) - frozenset(special)
        """Control tokens that may occur in an answer."""
        self._any_token = match_any(ordered)
        self._any_mark = match_any(self.token_of)

    def mark(self, text: str, tokens: re.Pattern[str] | None = None) -> str:
        """Replaces each control token, or each that `tokens` matches, by its mark."""
        return (tokens or self._any_token).sub(lambda found: self._mark_of[found[0]], text)

    def expand(self, text: str) -> str:
        """Replaces marks by their control tokens."""
        return self._any_mark.sub(lambda found: self.token_of[found[0]], text)

    def mark_literals(self, node: nodes.Node) -> None:
        """Marks, in a template's syntax tree, the control tokens that the template writes."""
        match node:
            case nodes.TemplateData():
                node.data = self.mark(node.data)
            case nodes.Const(value=str(text)):
                node.value = self.mark(text)
            case _:
                for part in _written(node):
                    self.mark_literals(part)

    def looked_for(self, marked: nodes.Node) -> frozenset[str]:
        """The control tokens that a template searches for; call after `mark_literals`."""
        literals = (node.value for node in marked.find_all(nodes.Const))
        texts = (value for value in literals if isinstance(value, str))
        return frozenset(token for text in texts for token in self._any_token.findall(text))


def match_any(tokens: Iterable[str]) -> re.Pattern[str]:
    """A pattern with one group that matches any of `tokens`, longest first, or nothing if there are
    none.
    """
    ordered = sorted(tokens, key=len, reverse=True)
    return re.compile("(" + ("|".join(map(re.escape, ordered)) or "(?!)") + ")")


def _written(node: nodes.Node) -> Iterator[nodes.Node]:
    """The parts whose value may become text, without operands of comparisons and lookup keys."""
    match node:
        case nodes.Compare() | nodes.Test():
            return
        case nodes.Getitem(node=container):
            yield container
        case nodes.Pair(value=value):
            yield value
        case nodes.Filter(node=value, name=name):
            if value is not None:
                yield value
            yield from _written_arguments(name, node)
        case nodes.Call(node=nodes.Getattr(node=receiver, attr=name)):
            yield receiver
            yield from _written_arguments(name, node)
        case _:
            yield from node.iter_child_nodes()


def _written_arguments(name: str, call: nodes.Filter | nodes.Call) -> Iterator[nodes.Node]:
    first = _WRITTEN_ARGUMENTS.get(name)
    if first is not None:
        yield from call.args[first:]
        yield from call.kwargs
