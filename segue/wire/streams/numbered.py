"""Numbers of a stream's messages, by which the reader notices one that is missing or comes twice.

TCP and HTTP/2 lose and repeat nothing, but neither checks what a broken proxy makes of the bytes:
repeated frames of a plaintext stream are valid, and would be repeated tokens.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

from segue.api.errors import Unavailable

Batch = TypeVar("Batch")


async def numbered(batches: AsyncIterator[Batch]) -> AsyncIterator[tuple[int, Batch]]:
    """The batches with the numbers of their messages, from 1."""
    number = 0
    async for batch in batches:
        number += 1
        yield number, batch


class Order:
    """The reader's count of one stream."""

    def __init__(self) -> None:
        self._expected = 1

    def require_next(self, number: int) -> None:
        """Raises Unavailable. 0 is from a peer that does not number its messages."""
        if number not in (0, self._expected):
            raise Unavailable.unreachable(
                f"message {number} of a stream came in place of message {self._expected}: what is "
                "between the two processes loses or repeats bytes"
            )
        self._expected += 1
