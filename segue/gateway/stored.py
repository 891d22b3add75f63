"""Responses that later requests continue by their id (`previous_response_id`).

They are in the router's memory, so that every gateway finds them. If one is gone, the client gets
an error and can send its whole input, which always works.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any, NamedTuple, NoReturn, Protocol

from pydantic_core import from_json, to_json
from starlette.requests import Request

from segue.api.errors import InvalidRequest, SegueError
from segue.gateway.http.door import visit_of
from segue.gateway.http.errors import Json, UnknownResponse

logger = logging.getLogger(__name__)

# The router's limit for names of documents: a client may send any text.
_MAX_ID_CHARS = 256


class DocumentCalls(Protocol):
    """The calls to the router that are used here; see `segue.sdk.client.Client`."""

    async def keep_document(
        self, group: str, name: str, content: bytes, *, previous: str = ""
    ) -> bool: ...

    async def documents(self, group: str, name: str, *, alone: bool = False) -> list[bytes]: ...

    async def delete_document(self, group: str, name: str) -> bool: ...


class Stored(NamedTuple):
    """One document."""

    response: Json
    input_items: list[Json]


class Conversation(NamedTuple):
    items: list[Json]
    num_bytes: int
    """Of the documents with these items."""


class StoredResponses:
    """Each owner finds only its own."""

    def __init__(self, client: DocumentCalls) -> None:
        self._client = client

    async def keep(self, owner: str, response: Json, input_items: list[Any]) -> None:
        """`input_items`: the request's own, without those of earlier responses. A failure is only
        logged: the answer does not depend on it.
        """
        content = to_json({"response": response, "input": input_items})
        previous = response["previous_response_id"] or ""
        try:
            await self._client.keep_document(owner, response["id"], content, previous=previous)
        except SegueError as error:
            logger.warning("response not stored", extra={"error": f"{error}"})

    async def get(self, owner: str, response_id: str) -> Json:
        """Raises UnknownResponse."""
        (found,) = await self._found(owner, response_id, alone=True)
        return _read(found, response_id).response

    async def delete(self, owner: str, response_id: str) -> None:
        """Raises UnknownResponse."""
        if not (_is_id(response_id) and await self._client.delete_document(owner, response_id)):
            _refuse(response_id)

    async def conversation(self, owner: str, response_id: str, max_bytes: int) -> Conversation:
        """All items up to the end of this response; none without an id. Raises UnknownResponse, and
        InvalidRequest if their documents have more than `max_bytes`.
        """
        if not response_id:
            return Conversation([], 0)
        found = await self._found(owner, response_id)
        num_bytes = sum(map(len, found))
        if num_bytes > max_bytes:
            # Parsing them would keep all other requests waiting.
            raise InvalidRequest.at(
                "previous_response_id",
                f"expected a conversation of at most {max_bytes} bytes, got {num_bytes}: send the "
                "input that is still needed, without previous_response_id",
            )
        turns = [_read(document, response_id) for document in found]
        items = [item for turn in turns for item in (*turn.input_items, *turn.response["output"])]
        return Conversation(items, num_bytes)

    async def _found(self, owner: str, response_id: str, *, alone: bool = False) -> list[bytes]:
        if not _is_id(response_id):
            _refuse(response_id)
        found = await self._client.documents(owner, response_id, alone=alone)
        if not found:
            _refuse(response_id)
        return found


def _read(document: bytes, response_id: str) -> Stored:
    """Raises UnknownResponse if no gateway wrote the document: a client can write any by RPC."""
    try:
        content = from_json(document)
    except ValueError:
        _refuse(response_id)
    match content:
        case {"response": {"output": [*output]} as response, "input": [*items]} if all(
            isinstance(item, dict) for item in (*items, *output)
        ):
            return Stored(response, items)
        case _:
            _refuse(response_id)


def _is_id(response_id: str) -> bool:
    """Whether the router can have stored a response with this id."""
    return 0 < len(response_id) <= _MAX_ID_CHARS and response_id.isprintable()


def _refuse(response_id: str) -> NoReturn:
    raise UnknownResponse(
        f"there is no stored response {response_id!r:.200}: it may have expired or been deleted, "
        "or belong to another key; send the whole input instead"
    )


def owner_of(request: Request) -> str:
    """Requests with the same key share their stored responses."""
    # A router without keys takes any header; one with API keys has checked the key.
    key = visit_of(request.scope).api_key() or request.headers.get("authorization", "")
    return hashlib.sha256(key.encode()).hexdigest()
