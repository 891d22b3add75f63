"""Ends a rendering that takes too long, or writes too much: a template is a program, and messages,
tools and `chat_template_kwargs` are what it computes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from segue.api.errors import InvalidRequest

MAX_RENDER_S = 10.0
"""Rendering a million tokens takes about a second."""
MAX_CHARACTERS = 1 << 26
_LOOK_EVERY = 64


def bounded(
    pieces: Iterable[str],
    *,
    max_s: float = MAX_RENDER_S,
    max_characters: int = MAX_CHARACTERS,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[str]:
    """The pieces, as the template emits them. Raises InvalidRequest at the first one too many."""
    ends_at = clock() + max_s
    num_characters = 0
    for number, piece in enumerate(pieces):
        num_characters += len(piece)
        if num_characters > max_characters:
            raise InvalidRequest(
                f"the chat template writes more than {max_characters} characters for this request: "
                "shorten messages and tools, or change chat_template_kwargs"
            )
        if not number % _LOOK_EVERY and clock() > ends_at:
            raise InvalidRequest(
                f"the chat template takes more than {max_s:g} s for this request: "
                "shorten messages and tools, or change chat_template_kwargs"
            )
        yield piece
