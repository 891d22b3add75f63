"""Responses that later requests continue by their id (`previous_response_id`).

They are in the router's memory, so that every gateway finds them. If one is gone, the client gets
an error and can send its whole input, which always works.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any, Protocol

from pydantic_core import from_json, to_json
from starlette.requests import Request

from segue.api.errors import SegueError
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
        response: Json = from_json(found)["response"]
        return response

    async def delete(self, owner: str, response_id: str) -> None:
        """Raises UnknownResponse."""
        _require(_is_id(response_id), response_id)
        _require(await self._client.delete_document(owner, response_id), response_id)

    async def conversation(self, owner: str, response_id: str) -> list[Json]:
        """All items up to the end of this response. Raises UnknownResponse."""
        if not response_id:
            return []
        turns = map(from_json, await self._found(owner, response_id))
        return [item for turn in turns for item in (*turn["input"], *turn["response"]["output"])]

    async def _found(self, owner: str, response_id: str, *, alone: bool = False) -> list[bytes]:
        _require(_is_id(response_id), response_id)
        found = await self._client.documents(owner, response_id, alone=alone)
        _require(bool(found), response_id)
        return found


def _is_id(response_id: str) -> bool:
    """Whether the router can have stored a response with this id."""
    return 0 < len(response_id) <= _MAX_ID_CHARS and response_id.isprintable()


def _require(is_known: bool, response_id: str) -> None:
    if not is_known:
        raise UnknownResponse(
            f"there is no stored response {response_id!r:.200}: it may have expired, or belong to "
            "another key; send the whole input instead"
        )


def owner_of(request: Request) -> str:
    """Requests with the same key share their stored responses."""
    # A router without keys takes any header; one with API keys has checked the key.
    key = visit_of(request.scope).api_key() or request.headers.get("authorization", "")
    return hashlib.sha256(key.encode()).hexdigest()
