"""What a client asks of routers besides turns. If one is gone, the next is asked."""

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

# A router asks a worker for some, and answers within 2 s even if the worker does not.
_TIMEOUT_S = 10.0
# A million tokens take a router's helper process seconds, and others may be before them.
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
        """The reply of the session's router, or of the next one that can be reached. `call` makes
        the request, so what cannot be sent is reported as any other error. `waits`: for a router
        that restarts."""
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
            # Its stream breaks too, and then it ends.
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
                # A session used meanwhile appears again, at its new place.
                sessions.pop(wire.session_id, None)
                sessions[wire.session_id] = value_of(SessionInfo, wire)
            page_token = reply.next_page_token
            if not page_token:
                return sessions

    async def renew_session(
        self, session_id: str, lease_s: float | None = None, *, pause_s: float | None = None
    ) -> float:
        """Renews the lease: the session will come back within `lease_s`, for example after a tool
        call. With `pause_s` it first stays away for about that long, and its memory may be used for
        others meanwhile.

        Returns the seconds for which its memory is kept, if memory allows. Raises NotFound if
        nothing of it is kept any more: its next turn costs more, but is served all the same.
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
        """Releases a session that will not come back. Returns False if the router does not know
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
        """Creates `child_id` from what is kept of `parent_id`. Raises NotFound if nothing is."""
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
        """The last turns, running ones too, on all sessions and routers, the latest first.
        0: as many as the routers remember."""
        require_count("max_turns", max_turns)
        request = pb.ListTurnsRequest(max_turns=max_turns)

        async def listed(link: RouterLink) -> pb.ListTurnsResponse:
            return await link.stub.ListTurns(request, timeout=timeout_s, metadata=self._key)

        replies = await self._targets.ask_all(listed, timeout_s=timeout_s)
        turns = [recent_from_wire(turn) for reply in replies for turn in reply.turns]
        turns.sort(key=lambda turn: turn.age_s)
        return turns[: max_turns or None]

    async def ready(self, *, timeout_s: float = 5.0) -> bool:
        """Whether a router serves: as its health service says, which needs no API key."""
        require_seconds("timeout_s", timeout_s)
        return any(
            await self._targets.ask_all(
                lambda link: is_serving(link.channel, timeout_s), timeout_s=timeout_s
            )
        )

    async def model(self, *, timeout_s: float = 5.0) -> ModelInfo:
        """The served model, by the router alone: unlike `status`, no worker is asked."""
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
        """Keeps it in a router's memory, for any client with this API key. `previous` is the name
        of the one in the group that it follows. Returns False if the router keeps none so large.
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
        """The document and, unless `alone`, those that it follows, oldest first. Empty if one of
        them is not kept any more.
        """
        wire = documents_pb2.FetchDocumentsRequest(group=group, name=name, alone=alone)

        async def fetch(link: RouterLink) -> list[bytes]:
            call = link.documents.FetchDocuments(wire, timeout=_TIMEOUT_S, metadata=self._key)
            return [one.content async for one in call]

        # The group's router may have been gone when it was kept.
        return max(await self._targets.ask_all(fetch, timeout_s=_TIMEOUT_S), key=len)

    async def delete_document(self, group: str, name: str) -> bool:
        """Returns whether it was kept."""
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
