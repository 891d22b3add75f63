"""Responses that later requests continue by their id (`previous_response_id`).

They are in this gateway's memory: another gateway does not have them, nor this one after a restart.
A client that gets an error for that sends its whole input, which always works.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from cachetools import LRUCache
from pydantic_core import from_json, to_json
from starlette.requests import Request

from segue.gateway.http.door import visit_of
from segue.gateway.http.errors import UnknownResponse

Json: TypeAlias = dict[str, Any]

# Python's own memory for an entry, besides its texts.
_ENTRY_BYTES = 1_000


@dataclass(frozen=True, slots=True)
class Stored:
    response: bytes
    """JSON, as it was answered."""
    input_items: bytes
    """A JSON list: the request's own input, without that of earlier responses."""
    previous_id: str

    @property
    def num_bytes(self) -> int:
        return len(self.response) + len(self.input_items) + _ENTRY_BYTES


class StoredResponses:
    """Bounded: the least recently used are forgotten first. An owner finds only its own."""

    def __init__(self, max_bytes: int) -> None:
        self._stored: LRUCache[tuple[str, str], Stored] = LRUCache(
            max_bytes, getsizeof=lambda one: one.num_bytes
        )

    def keep(self, owner: str, response: Json, input_items: list[Any]) -> None:
        """Keeps nothing that is larger than all that may be kept."""
        stored = Stored(
            to_json(response), to_json(input_items), response["previous_response_id"] or ""
        )
        if stored.num_bytes <= self._stored.maxsize:
            self._stored[owner, response["id"]] = stored

    def get(self, owner: str, response_id: str) -> Stored:
        """Raises UnknownResponse."""
        stored = self._stored.get((owner, response_id))
        if stored is None:
            raise UnknownResponse(
                f"no response {response_id!r:.200} is stored here: it may be another gateway's, or "
                "too long ago; send the whole input instead"
            )
        return stored

    def delete(self, owner: str, response_id: str) -> None:
        """Raises UnknownResponse."""
        self.get(owner, response_id)
        del self._stored[owner, response_id]

    def conversation(self, owner: str, response_id: str) -> list[Json]:
        """All items up to the end of this response. Raises UnknownResponse."""
        turns: list[Stored] = []
        while response_id:
            turns.append(self.get(owner, response_id))
            response_id = turns[-1].previous_id
        return [item for turn in reversed(turns) for item in _items(turn)]


def _items(turn: Stored) -> Iterator[Json]:
    yield from from_json(turn.input_items)
    yield from from_json(turn.response)["output"]


def owner_of(request: Request) -> str:
    """Who may see what this request stores: whoever sends the same key."""
    # An open router takes any header; one with API keys has checked the key, wherever it was.
    key = visit_of(request.scope).api_key() or request.headers.get("authorization", "")
    return hashlib.sha256(key.encode()).hexdigest()
