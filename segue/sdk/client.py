"""The Python SDK: an async client and a session that keeps its history.

async with Client("127.0.0.1:7411") as client:
    session = client.session()
    async for event in session.turn("My code is 731."):
        if isinstance(event, TokenDelta):
            write(event.text)
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import uuid
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from segue.api.api_key import metadata_with, require_api_key
from segue.api.checks import require_label, require_seconds, require_type
from segue.api.cluster_status import ClusterStatus, ModelInfo, SessionInfo
from segue.api.errors import DeadlineExceeded, InvalidRequest
from segue.api.explanation import Explanation
from segue.api.messages import require_text
from segue.api.turn import TokenDelta, TurnEnd, TurnEvent
from segue.api.types import (
    ChatInput,
    Detokenized,
    Message,
    OutputFormat,
    SamplingParams,
    SessionId,
    StopConditions,
    TextInput,
    TokenInput,
    TurnId,
    TurnInput,
    TurnRequest,
)
from segue.sdk.answer import Answer, gathered
from segue.sdk.chat_json import to_json
from segue.sdk.session import Session
from segue.sdk.tool_declarations import tools_as_text
from segue.v1 import session_pb2 as pb
from segue.v1.session_pb2_grpc import SessionsStub
from segue.wire.addresses import require_target
from segue.wire.channel import channel_to, is_serving, require_sendable
from segue.wire.convert.events import events_from_wire
from segue.wire.convert.explanation import explanation_from_wire
from segue.wire.convert.request import request_to_wire, token_ids_to_wire, tokenized_to_wire
from segue.wire.convert.same_names import value_of
from segue.wire.convert.worker import cluster_from_wire, session_from_wire
from segue.wire.status import rpc_errors
from segue.wire.streams.generate import Generating

DEFAULT_TARGET = "127.0.0.1:7411"
_IF_REFUSED = "start one with `segue serve`, or name its address with --target"
_IF_UNSERVED = (
    "this is another server, such as a worker, not the router: use the router's address, which "
    "`segue serve` prints"
)

__all__ = [
    "DEFAULT_TARGET",
    "Answer",
    "ChatInput",
    "Client",
    "Message",
    "SamplingParams",
    "Session",
    "StopConditions",
    "TextInput",
    "TokenDelta",
    "TokenInput",
    "TurnEnd",
]


class Client:
    """A client of one router. Raises `segue.api.errors`; use it as an async context manager."""

    def __init__(self, target: str = DEFAULT_TARGET, *, api_key: str | None = None) -> None:
        """`api_key`: for a router that asks for one."""
        require_type("target", target, str, "a text such as 127.0.0.1:7411")
        require_target(target)
        self.target = target
        self._set_key(api_key)
        _require_loop()
        self._channel = channel_to(target)
        self._stub = SessionsStub(self._channel)
        self._generating = Generating(self._stub, f"router {target}", self._router_errors)

    def with_key(self, api_key: str | None) -> Self:
        """A client with another API key on this one's connection, which only this one closes."""
        other = copy.copy(self)
        other._set_key(api_key)
        return other

    def _set_key(self, api_key: str | None) -> None:
        if api_key is not None:
            require_type("api_key", api_key, str, "a text")
            require_api_key(api_key)
        self._api_key = api_key or ""
        self._key = metadata_with(self._api_key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._generating.close()
        await self._channel.close()

    @contextlib.contextmanager
    def _router_errors(self, timeout_s: float | None = None) -> Iterator[None]:
        peer = f"router {self.target}"
        try:
            with rpc_errors(peer, if_refused=_IF_REFUSED, if_unserved=_IF_UNSERVED):
                yield
        except DeadlineExceeded as error:
            # Either gRPC or the router may notice first: give both the same message.
            limit = "the router's own limit" if timeout_s is None else f"{timeout_s:g} s"
            raise DeadlineExceeded(f"{peer}: no complete answer within {limit}") from error

    def session(
        self,
        session_id: str | None = None,
        *,
        system: str = "",
        tools: Sequence[str | Mapping[str, object]] = (),
        enable_thinking: bool | None = None,
        chat_template_kwargs: str | Mapping[str, object] = "",
    ) -> Session:
        """Starts a conversation. A tool is a dictionary, or JSON text as in `ChatInput`.
        `chat_template_kwargs` are further variables of the chat template, such as
        `{"reasoning_effort": "low"}`.

        Raises InvalidRequest if a tool is not a JSON object that names a function.
        """
        require_label("session_id", "" if session_id is None else session_id)
        require_text("system", system)
        require_type("enable_thinking", enable_thinking, (bool, type(None)), "True, False or None")
        require_type(
            "chat_template_kwargs",
            chat_template_kwargs,
            (str, Mapping),
            "a dictionary or JSON text",
        )
        messages = [Message(role="system", content=system)] if system else []
        return Session(
            self,
            SessionId(session_id or uuid.uuid4().hex),
            messages,
            tools=tools_as_text(tools),
            enable_thinking=enable_thinking,
            chat_template_kwargs=(
                chat_template_kwargs
                if isinstance(chat_template_kwargs, str)
                else to_json(chat_template_kwargs)
            ),
        )

    async def stream(
        self,
        turn_input: TurnInput,
        *,
        session_id: str = "",
        session_hint: str | None = None,
        turn_id: str = "",
        sampling: SamplingParams | None = None,
        stop: StopConditions | None = None,
        output: OutputFormat | None = None,
        timeout_s: float | None = None,
        cache_salt: str = "",
        priority: int = 0,
    ) -> AsyncGenerator[TurnEvent, None]:
        """Yields one turn's events; the last is a TurnEnd. Leaving the loop cancels the turn.

        Fields that `sampling` and `stop` leave unset get the checkpoint's defaults, and the answer
        may be as long as context and memory allow. Without a seed, each turn gets its own.
        `session_hint` replaces `session_id` for a caller that sends the whole conversation each
        time: the router finds the session that it continues (`TurnRequest.session_hint`). Only
        turns with the same `cache_salt` share cached prefixes. Of turns that wait for a place,
        those with the lowest `priority` are next.
        `output` is the form that the answer must have: `JsonSchema('{"type": "object"}')`, say.
        """
        require_seconds("timeout_s", timeout_s)
        request = TurnRequest(
            session_id=SessionId(session_id),
            session_hint=session_hint,
            turn_id=TurnId(turn_id),
            input=turn_input,
            sampling=SamplingParams() if sampling is None else sampling,
            stop=StopConditions() if stop is None else stop,
            cache_salt=cache_salt,
            priority=priority,
            output=output,
        )
        wire = request_to_wire(request)
        require_sendable("the turn", wire.ByteSize())
        with self._router_errors(timeout_s):
            async with contextlib.aclosing(
                self._generating.answer(wire, timeout_s, self._api_key)
            ) as answering:
                async for message in answering:
                    for event in events_from_wire(message):
                        yield event

    async def generate(
        self,
        turn_input: TurnInput,
        *,
        session_id: str = "",
        session_hint: str | None = None,
        turn_id: str = "",
        sampling: SamplingParams | None = None,
        stop: StopConditions | None = None,
        output: OutputFormat | None = None,
        timeout_s: float | None = None,
        cache_salt: str = "",
        priority: int = 0,
    ) -> Answer:
        """Runs one turn, and returns the whole answer."""
        turn_id = turn_id or uuid.uuid4().hex
        events = self.stream(
            turn_input,
            session_id=session_id,
            session_hint=session_hint,
            turn_id=turn_id,
            sampling=sampling,
            stop=stop,
            output=output,
            timeout_s=timeout_s,
            cache_salt=cache_salt,
            priority=priority,
        )
        return await gathered(TurnId(turn_id), events)

    async def cancel(self, turn_id: str) -> bool:
        """Cancels a running turn, from any client. Returns False if no such turn is running."""
        require_type("turn_id", turn_id, str, "a text")
        with self._router_errors():
            reply = await self._stub.Cancel(pb.CancelRequest(turn_id=turn_id), metadata=self._key)
        return reply.was_running

    async def sessions(self) -> list[SessionInfo]:
        """All sessions that the router remembers, least recently used first."""
        sessions: dict[str, SessionInfo] = {}
        page_token = ""
        with self._router_errors():
            while True:
                request = pb.ListSessionsRequest(page_token=page_token)
                reply = await self._stub.ListSessions(request, metadata=self._key)
                for wire in reply.sessions:
                    # A session used meanwhile appears again, at its new place.
                    sessions.pop(wire.session_id, None)
                    sessions[wire.session_id] = session_from_wire(wire)
                page_token = reply.next_page_token
                if not page_token:
                    return list(sessions.values())

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
        with self._router_errors():
            request = pb.RenewSessionRequest(
                session_id=session_id, lease_s=lease_s, pause_s=pause_s
            )
            reply = await self._stub.RenewSession(request, metadata=self._key)
        return reply.expires_in_s

    async def release_session(self, session_id: str) -> bool:
        """Releases a session that will not come back. Returns False if the router does not know
        it."""
        require_type("session_id", session_id, str, "a text")
        with self._router_errors():
            request = pb.ReleaseSessionRequest(session_id=session_id)
            reply = await self._stub.ReleaseSession(request, metadata=self._key)
        return reply.was_known

    async def fork_session(self, parent_id: str, child_id: str) -> None:
        """Creates `child_id` from what is kept of `parent_id`. Raises NotFound if nothing is."""
        require_type("parent_id", parent_id, str, "a text")
        require_type("child_id", child_id, str, "a text")
        with self._router_errors():
            request = pb.ForkSessionRequest(parent_id=parent_id, child_id=child_id)
            await self._stub.ForkSession(request, metadata=self._key)

    async def explain(self, session_id: str) -> Explanation:
        """Why the session's last turn was placed where it was. Raises NotFound."""
        require_type("session_id", session_id, str, "a text")
        with self._router_errors():
            reply = await self._stub.Explain(
                pb.ExplainRequest(session_id=session_id), metadata=self._key
            )
        return explanation_from_wire(reply.explanation)

    async def ready(self, *, timeout_s: float = 5.0) -> bool:
        """Whether the router serves: as its health service says, which needs no API key."""
        require_seconds("timeout_s", timeout_s)
        with self._router_errors(timeout_s):
            return await is_serving(self._channel, timeout_s)

    async def model(self, *, timeout_s: float = 5.0) -> ModelInfo:
        """The served model, by the router alone: unlike `status`, no worker is asked."""
        require_seconds("timeout_s", timeout_s)
        with self._router_errors(timeout_s):
            reply = await self._stub.GetModel(
                pb.GetModelRequest(), timeout=timeout_s, metadata=self._key
            )
        return value_of(ModelInfo, reply)

    async def tokenize(self, turn_input: ChatInput | TextInput) -> tuple[int, ...]:
        """The prompt that a turn with this input would have, as token ids."""
        require_type(
            "the input to tokenise", turn_input, (ChatInput, TextInput), "a ChatInput or TextInput"
        )
        wire = tokenized_to_wire(turn_input)
        require_sendable("the input to tokenise", wire.ByteSize())
        with self._router_errors():
            reply = await self._stub.Tokenize(wire, metadata=self._key)
        return tuple(reply.token_ids)

    async def detokenize(self, token_ids: Sequence[int]) -> Detokenized:
        with self._router_errors():
            reply = await self._stub.Detokenize(token_ids_to_wire(token_ids), metadata=self._key)
        return value_of(Detokenized, reply)

    async def status(self, *, timeout_s: float = 5.0) -> ClusterStatus:
        require_seconds("timeout_s", timeout_s)
        with self._router_errors(timeout_s):
            reply = await self._stub.GetStatus(
                pb.GetStatusRequest(), timeout=timeout_s, metadata=self._key
            )
        return cluster_from_wire(reply.cluster)


def _require_loop() -> None:
    """Without a running loop, gRPC would use one that never runs, or raise its own error."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise InvalidRequest(
            "a Client must be created inside a running event loop, and none is running: create it "
            "in an async function, `async with Client(…) as client`, that asyncio.run runs"
        ) from None
