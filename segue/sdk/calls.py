"""A client's calls other than turns. If a router is unreachable, the next one is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from segue.api.checks import require_count, require_seconds, require_type
from segue.api.cluster.explanation import Explanation, RecentTurn
from segue.api.cluster.status import ClusterStatus, ModelInfo, SessionInfo
from segue.api.errors import Unavailable
from segue.api.types import ChatInput, Detokenized, TextInput
from segue.sdk.targets import RouterLink, Targets
from segue.sdk.turns import TurnRunner
from segue.v1 import documents_pb2
from segue.v1 import session_pb2 as pb
from segue.wire.channel import is_serving, require_sendable
from segue.wire.convert.explanation import explanation_from_wire, recent_from_wire
from segue.wire.convert.request import token_ids_to_wire, tokenized_to_wire
from segue.wire.convert.same_names import value_of
from segue.wire.convert.worker import cluster_from_wire

if TYPE_CHECKING:
    # For type annotations only: the generated module does not have this name at run time.
    from segue.v1.session_pb2_grpc import SessionsAsyncStub

Reply = TypeVar("Reply")

# For some calls a router asks a worker; it answers within 2 s even if the worker does not.
_TIMEOUT_S = 10.0
# A million tokens take a router's helper process some seconds, and others may be queued first.
_TOKENIZE_TIMEOUT_S = 60.0


class RouterCalls:
    """The part of a `Client` that is not about turns."""

    _targets: Targets
    _turns: TurnRunner
    _key: tuple[tuple[str, str], ...]
    """The API key, as metadata."""

    async def _ask(
        self,
        call: Callable[[SessionsAsyncStub, dict[str, Any]], Awaitable[Reply]],
        *,
        session_id: str = "",
        timeout_s: float = _TIMEOUT_S,
        may_repeat: bool = True,
        waits: bool = True,
    ) -> Reply:
        """The reply of the session's router, or of the next reachable one. `call` also creates the
        request, so a value that cannot be encoded raises an ordinary SegueError. `waits`: waits for
        a router that restarts."""
        how = {"timeout": timeout_s, "metadata": self._key}
        return await self._targets.ask(
            session_id,
            lambda link: call(link.stub, how),
            timeout_s=timeout_s,
            may_repeat=may_repeat,
            waits=waits,
        )

    async def cancel(self, turn_id: str) -> bool:
        """Cancels a running turn, from any client. Returns False if no such turn is running."""
        require_type("turn_id", turn_id, str, "a text")
        is_own = self._turns.knows(turn_id)
        if self._turns.cancel(turn_id):
            return True

        async def cancel(link: RouterLink) -> pb.CancelResponse:
            request = pb.CancelRequest(turn_id=turn_id)
            return await link.stub.Cancel(request, timeout=_TIMEOUT_S, metadata=self._key)

        try:
            replies = await self._targets.ask_all(cancel, timeout_s=_TIMEOUT_S)
        except Unavailable:
            # The turn's own stream breaks too, which ends the turn.
            if not is_own:
                raise
            return True
        return any(reply.was_running for reply in replies)

    async def sessions(self) -> list[SessionInfo]:
        """All sessions that the routers remember, least recently used first."""
        sessions: dict[str, SessionInfo] = {}
        for own in await self._targets.ask_all(self._sessions_of, timeout_s=_TIMEOUT_S):
            sessions |= own
        return list(sessions.values())

    async def _sessions_of(self, link: RouterLink) -> dict[str, SessionInfo]:
        sessions: dict[str, SessionInfo] = {}
        page_token = ""
        while True:
            reply = await link.stub.ListSessions(
                pb.ListSessionsRequest(page_token=page_token),
                timeout=_TIMEOUT_S,
                metadata=self._key,
            )
            for wire in reply.sessions:
                # A session used in the meantime is listed again at its new position.
                sessions.pop(wire.session_id, None)
                sessions[wire.session_id] = value_of(SessionInfo, wire)
            page_token = reply.next_page_token
            if not page_token:
                return sessions

    async def renew_session(
        self, session_id: str, lease_s: float | None = None, *, pause_s: float | None = None
    ) -> float:
        """Renews the session's lease: its next turn will come within `lease_s`, for example after a
        tool call. `pause_s`: the turn will not come before about that time, and other sessions may
        use the memory until then.

        Returns the seconds for which the cluster retains the session's memory, if it can. Raises
        NotFound if it retains none: the next turn then costs more, but is served.
        """
        require_type("session_id", session_id, str, "a text")
        require_seconds("lease_s", lease_s)
        require_seconds("pause_s", pause_s)
        reply = await self._ask(
            lambda stub, how: stub.RenewSession(
                pb.RenewSessionRequest(session_id=session_id, lease_s=lease_s, pause_s=pause_s),
                **how,
            ),
            session_id=session_id,
        )
        return reply.expires_in_s

    async def release_session(self, session_id: str) -> bool:
        """Releases a session that has no further turns. Returns False if the router does not know
        it."""
        require_type("session_id", session_id, str, "a text")
        reply = await self._ask(
            lambda stub, how: stub.ReleaseSession(
                pb.ReleaseSessionRequest(session_id=session_id), **how
            ),
            session_id=session_id,
        )
        return reply.was_known

    async def fork_session(self, parent_id: str, child_id: str) -> None:
        """Creates `child_id` from the memory retained for `parent_id`. Raises NotFound."""
        require_type("parent_id", parent_id, str, "a text")
        require_type("child_id", child_id, str, "a text")
        await self._ask(
            lambda stub, how: stub.ForkSession(
                pb.ForkSessionRequest(parent_id=parent_id, child_id=child_id), **how
            ),
            session_id=parent_id,
            # The child may exist already.
            may_repeat=False,
        )

    async def explain(self, session_id: str) -> Explanation:
        """Why the session's last turn was placed where it was. Raises NotFound."""
        require_type("session_id", session_id, str, "a text")
        reply = await self._ask(
            lambda stub, how: stub.Explain(pb.ExplainRequest(session_id=session_id), **how),
            session_id=session_id,
        )
        return explanation_from_wire(reply.explanation)

    async def recent_turns(
        self, max_turns: int = 0, *, timeout_s: float = _TIMEOUT_S
    ) -> list[RecentTurn]:
        """The last turns, including running ones, of all sessions and routers, latest first.
        `max_turns` 0: all that the routers remember."""
        require_count("max_turns", max_turns)
        request = pb.ListTurnsRequest(max_turns=max_turns)

        async def listed(link: RouterLink) -> pb.ListTurnsResponse:
            return await link.stub.ListTurns(request, timeout=timeout_s, metadata=self._key)

        replies = await self._targets.ask_all(listed, timeout_s=timeout_s)
        turns = [recent_from_wire(turn) for reply in replies for turn in reply.turns]
        turns.sort(key=lambda turn: turn.age_s)
        return turns[: max_turns or None]

    async def ready(self, *, timeout_s: float = 5.0) -> bool:
        """Whether a router serves, by its health service, which needs no API key."""
        require_seconds("timeout_s", timeout_s)
        return any(
            await self._targets.ask_all(
                lambda link: is_serving(link.channel, timeout_s), timeout_s=timeout_s
            )
        )

    async def model(self, *, timeout_s: float = 5.0) -> ModelInfo:
        """The served model, from the router alone: unlike `status`, this asks no worker."""
        require_seconds("timeout_s", timeout_s)
        reply = await self._ask(
            lambda stub, how: stub.GetModel(pb.GetModelRequest(), **how), timeout_s=timeout_s
        )
        return value_of(ModelInfo, reply)

    async def tokenize(self, turn_input: ChatInput | TextInput) -> tuple[int, ...]:
        """The prompt that a turn with this input would have, as token ids."""
        require_type(
            "the input to tokenise", turn_input, (ChatInput, TextInput), "a ChatInput or TextInput"
        )
        wire = tokenized_to_wire(turn_input)
        require_sendable("the input to tokenise", wire.ByteSize())
        reply = await self._ask(
            lambda stub, how: stub.Tokenize(wire, **how), timeout_s=_TOKENIZE_TIMEOUT_S
        )
        return tuple(reply.token_ids)

    async def detokenize(self, token_ids: Sequence[int]) -> Detokenized:
        wire = token_ids_to_wire(token_ids)
        reply = await self._ask(lambda stub, how: stub.Detokenize(wire, **how))
        return value_of(Detokenized, reply)

    async def keep_document(
        self, group: str, name: str, content: bytes, *, previous: str = ""
    ) -> bool:
        """Stores a document in a router's memory, for any client with this API key. `previous` is
        the name of its predecessor in the group. Returns False if the document is too large.
        """
        wire = documents_pb2.KeepDocumentRequest(
            group=group, name=name, content=content, previous=previous
        )
        require_sendable("the document", wire.ByteSize())
        reply = await self._targets.ask(
            group,
            lambda link: link.documents.KeepDocument(wire, timeout=_TIMEOUT_S, metadata=self._key),
            timeout_s=_TIMEOUT_S,
            waits=True,
        )
        return reply.is_kept

    async def documents(self, group: str, name: str, *, alone: bool = False) -> list[bytes]:
        """The document and, unless `alone`, its predecessors, oldest first. Empty if one of them is
        no longer stored.
        """
        wire = documents_pb2.FetchDocumentsRequest(group=group, name=name, alone=alone)

        async def fetch(link: RouterLink) -> list[bytes]:
            call = link.documents.FetchDocuments(wire, timeout=_TIMEOUT_S, metadata=self._key)
            return [one.content async for one in call]

        # The group's router may have been unreachable when the document was stored.
        return max(await self._targets.ask_all(fetch, timeout_s=_TIMEOUT_S), key=len)

    async def delete_document(self, group: str, name: str) -> bool:
        """Returns whether the document was stored."""
        wire = documents_pb2.DeleteDocumentRequest(group=group, name=name)

        async def delete(link: RouterLink) -> bool:
            call = link.documents.DeleteDocument(wire, timeout=_TIMEOUT_S, metadata=self._key)
            return (await call).was_kept

        return any(await self._targets.ask_all(delete, timeout_s=_TIMEOUT_S))

    async def status(self, *, timeout_s: float = 5.0) -> ClusterStatus:
        """The cluster, as one of its routers sees it."""
        require_seconds("timeout_s", timeout_s)
        reply = await self._ask(
            lambda stub, how: stub.GetStatus(pb.GetStatusRequest(), **how),
            timeout_s=timeout_s,
            waits=False,
        )
        return cluster_from_wire(reply.cluster)
