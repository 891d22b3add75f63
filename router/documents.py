"""Documents that clients store in the router's memory for each other: the store, and its gRPC
service."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass

from router.server import Context, key_in
from router.tenants.keys import Keyring
from segue.api.checks import require_label, require_name
from segue.process.telemetry import Clock
from segue.v1 import documents_pb2 as pb
from segue.v1.documents_pb2_grpc import DocumentsServicer

Key = tuple[str, str]

# Python's own memory for a document, besides its content.
_ENTRY_BYTES = 1_000


@dataclass(frozen=True, slots=True)
class Document:
    content: bytes
    previous: str = ""
    """The name of the document that it follows; empty for none."""

    @property
    def num_bytes(self) -> int:
        return len(self.content) + _ENTRY_BYTES


class DocumentStore:
    """Bounded in bytes, and in seconds since each document's last use."""

    def __init__(self, max_bytes: int, max_idle_s: float, clock: Clock = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._max_idle_s = max_idle_s
        self._clock = clock
        self._shelves: dict[str, _Shelf] = {}
        """By owner. Owners without documents have none."""

    @property
    def num_bytes(self) -> int:
        return sum(shelf.num_bytes for shelf in self._shelves.values())

    def keep(self, owner: str, key: Key, document: Document) -> bool:
        """Replaces the document with that key. Returns False if the document is too large. To make
        room, evicts the least recently used documents of the owner that has most bytes.
        """
        if document.num_bytes > self._max_bytes:
            return False
        self._drop_idle()
        self._shelves.setdefault(owner, _Shelf()).put(key, document, self._clock())
        while self.num_bytes > self._max_bytes:
            largest = max(self._shelves, key=lambda one: self._shelves[one].num_bytes)
            self._shelves[largest].drop_oldest()
            self._forget_empty()
        return True

    def fetch(self, owner: str, key: Key, *, alone: bool = False) -> list[Document]:
        """The document and, unless `alone`, those before it, oldest first. Empty if one of them is
        missing.
        """
        self._drop_idle()
        group, name = key
        shelf = self._shelves.get(owner, _Shelf())
        found: dict[str, Document] = {}
        while name:
            document = shelf.use((group, name), self._clock())
            if document is None or name in found:
                return []
            found[name] = document
            name = "" if alone else document.previous
        return list(reversed(found.values()))

    def delete(self, owner: str, key: Key) -> bool:
        """Returns whether the document existed."""
        self._drop_idle()
        shelf = self._shelves.get(owner)
        was_kept = shelf is not None and shelf.drop(key)
        self._forget_empty()
        return was_kept

    def _drop_idle(self) -> None:
        before = self._clock() - self._max_idle_s
        for shelf in self._shelves.values():
            shelf.drop_unused_since(before)
        self._forget_empty()

    def _forget_empty(self) -> None:
        self._shelves = {owner: shelf for owner, shelf in self._shelves.items() if shelf.num_bytes}


class _Shelf:
    """One owner's documents, the least recently used first."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._documents: OrderedDict[Key, tuple[Document, float]] = OrderedDict()

    def put(self, key: Key, document: Document, now: float) -> None:
        self.drop(key)
        self._documents[key] = document, now
        self.num_bytes += document.num_bytes

    def use(self, key: Key, now: float) -> Document | None:
        kept = self._documents.pop(key, None)
        if kept is None:
            return None
        self._documents[key] = kept[0], now
        return kept[0]

    def drop(self, key: Key) -> bool:
        kept = self._documents.pop(key, None)
        if kept is not None:
            self.num_bytes -= kept[0].num_bytes
        return kept is not None

    def drop_oldest(self) -> None:
        self.drop(next(iter(self._documents)))

    def drop_unused_since(self, before: float) -> None:
        while self._documents:
            key, (_, used_at) = next(iter(self._documents.items()))
            if used_at >= before:
                return
            self.drop(key)


class DocumentsFace(DocumentsServicer):
    def __init__(self, store: DocumentStore, keys: Keyring) -> None:
        self._store = store
        self._keys = keys

    async def KeepDocument(
        self, request: pb.KeepDocumentRequest, context: Context
    ) -> pb.KeepDocumentResponse:
        owner = self._owner(context)
        key = _key(request.group, request.name)
        require_label("previous", request.previous)
        document = Document(request.content, request.previous)
        return pb.KeepDocumentResponse(is_kept=self._store.keep(owner, key, document))

    async def FetchDocuments(
        self, request: pb.FetchDocumentsRequest, context: Context
    ) -> AsyncIterator[pb.FetchDocumentsResponse]:
        owner = self._owner(context)
        key = _key(request.group, request.name)
        for one in self._store.fetch(owner, key, alone=request.alone):
            yield pb.FetchDocumentsResponse(content=one.content)

    async def DeleteDocument(
        self, request: pb.DeleteDocumentRequest, context: Context
    ) -> pb.DeleteDocumentResponse:
        owner = self._owner(context)
        key = _key(request.group, request.name)
        return pb.DeleteDocumentResponse(was_kept=self._store.delete(owner, key))

    def _owner(self, context: Context) -> str:
        """Raises Unauthenticated."""
        return self._keys.tenant_of(key_in(context)).scope


def _key(group: str, name: str) -> Key:
    """Raises InvalidRequest."""
    require_label("group", group)
    require_name("name", name)
    return group, name
