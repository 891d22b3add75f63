"""The Python SDK: an async client and a session that keeps its history.

async with Client("127.0.0.1:7411") as client:
    session = client.session()
    async for event in session.turn("My code is 731."):
        if isinstance(event, TokenDelta):
            write(event.text)
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from segue.cluster_status import ClusterStatus, SessionInfo
from segue.errors import NotFound, UnknownHistory
from segue.explanation import Explanation
from segue.history import continuation
from segue.tool_calls import read_answer
from segue.types import (
    ChatInput,
    Message,
    SampledToken,
    SamplingParams,
    SessionId,
    StopConditions,
    TextInput,
    TokenDelta,
    TokenInput,
    TurnEnd,
    TurnEvent,
    TurnId,
    TurnInput,
    TurnRequest,
)
from segue.wire import session_pb2 as pb
from segue.wire.convert import event_from_wire, request_to_wire, session_from_wire
from segue.wire.convert_explanation import explanation_from_wire
from segue.wire.convert_worker import cluster_from_wire
from segue.wire.server import channel_to
from segue.wire.session_pb2_grpc import SessionsStub
from segue.wire.status import rpc_errors

DEFAULT_TARGET = "127.0.0.1:7411"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole turn, gathered."""

    turn_id: TurnId
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[SampledToken, ...]
    """One per token, where asked for."""
    end: TurnEnd


class Client:
    """Talks to one router. Errors are `segue.errors`; use it as an async context manager."""

    def __init__(self, target: str = DEFAULT_TARGET) -> None:
        self.target = target
        self._channel = channel_to(target)
        self._stub = SessionsStub(self._channel)

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
        await self._channel.close()

    def session(
        self,
        session_id: str | None = None,
        *,
        system: str = "",
        tools: Sequence[str] = (),
        enable_thinking: bool = False,
    ) -> Session:
        """A conversation. `tools` are JSON objects, as text, as in `ChatInput`."""
        messages = [Message(role="system", content=system)] if system else []
        return Session(
            self,
            SessionId(session_id or uuid.uuid4().hex),
            messages,
            tools=tuple(tools),
            enable_thinking=enable_thinking,
        )

    async def stream(
        self,
        turn_input: TurnInput,
        *,
        session_id: str = "",
        turn_id: str = "",
        sampling: SamplingParams | None = None,
        stop: StopConditions | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[TurnEvent, None]:
        """One turn, event by event; the last is a TurnEnd. Leaving the loop cancels the turn.

        Without `sampling` the answer is greedy.
        """
        request = TurnRequest(
            session_id=SessionId(session_id),
            turn_id=TurnId(turn_id),
            input=turn_input,
            sampling=sampling or SamplingParams(),
            stop=stop or StopConditions(),
        )
        with rpc_errors(f"router {self.target}"):
            call = self._stub.Generate(request_to_wire(request), timeout=timeout_s)
            try:
                async for event in call:
                    yield event_from_wire(event)
            finally:
                call.cancel()

    async def generate(
        self,
        turn_input: TurnInput,
        *,
        session_id: str = "",
        turn_id: str = "",
        sampling: SamplingParams | None = None,
        stop: StopConditions | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """One turn, whole."""
        turn_id = turn_id or uuid.uuid4().hex
        text: list[str] = []
        token_ids: list[int] = []
        logprobs: list[SampledToken] = []
        end: TurnEnd | None = None
        async for event in self.stream(
            turn_input,
            session_id=session_id,
            turn_id=turn_id,
            sampling=sampling,
            stop=stop,
            timeout_s=timeout_s,
        ):
            match event:
                case TokenDelta():
                    text.append(event.text)
                    token_ids.extend(event.token_ids)
                    logprobs.extend(event.logprobs)
                case TurnEnd():
                    end = event
        assert end is not None, "a stream without an error ends with a TurnEnd"
        return Answer(
            turn_id=TurnId(turn_id),
            text="".join(text),
            token_ids=tuple(token_ids),
            logprobs=tuple(logprobs),
            end=end,
        )

    async def cancel(self, turn_id: str) -> bool:
        """Ends a running turn from elsewhere. False when no such turn is running."""
        with rpc_errors(f"router {self.target}"):
            reply = await self._stub.Cancel(pb.CancelRequest(turn_id=turn_id))
        return reply.was_running

    async def sessions(self) -> list[SessionInfo]:
        """What the router remembers, the longest unused first."""
        with rpc_errors(f"router {self.target}"):
            reply = await self._stub.ListSessions(pb.ListSessionsRequest())
        return [session_from_wire(session) for session in reply.sessions]

    async def renew_session(
        self, session_id: str, lease_s: float | None = None, *, pause_s: float | None = None
    ) -> float:
        """The session comes back within `lease_s`: a tool runs, a person thinks. With `pause_s` it
        is away for about so long first, and its memory may make room for others until then.

        Returns the seconds for which its memory is kept, if memory allows. Raises NotFound when
        nothing of it is kept any more: its next turn costs more, and is served all the same.
        """
        request = pb.RenewSessionRequest(session_id=session_id, lease_s=lease_s, pause_s=pause_s)
        with rpc_errors(f"router {self.target}"):
            reply = await self._stub.RenewSession(request)
        return reply.expires_in_s

    async def release_session(self, session_id: str) -> bool:
        """The session will not come back. False when the router does not know it."""
        with rpc_errors(f"router {self.target}"):
            request = pb.ReleaseSessionRequest(session_id=session_id)
            reply = await self._stub.ReleaseSession(request)
        return reply.was_known

    async def fork_session(self, parent_id: str, child_id: str) -> None:
        """`child_id` begins with what is kept of `parent_id`. Raises NotFound when nothing is."""
        request = pb.ForkSessionRequest(parent_id=parent_id, child_id=child_id)
        with rpc_errors(f"router {self.target}"):
            await self._stub.ForkSession(request)

    async def explain(self, session_id: str) -> Explanation:
        """Why the session's last turn was placed where it was. Raises NotFound."""
        with rpc_errors(f"router {self.target}"):
            reply = await self._stub.Explain(pb.ExplainRequest(session_id=session_id))
        return explanation_from_wire(reply)

    async def status(self, *, timeout_s: float = 5.0) -> ClusterStatus:
        with rpc_errors(f"router {self.target}"):
            reply = await self._stub.GetStatus(pb.GetStatusRequest(), timeout=timeout_s)
        return cluster_from_wire(reply)


class Session:
    """A conversation that keeps its own history: the client's copy is the truth.

    It sends what the router does not have, and all of it once more where the router turns out to
    know less, or other things: `messages` may be changed freely between turns.
    """

    def __init__(
        self,
        client: Client,
        session_id: SessionId,
        messages: Sequence[Message],
        *,
        tools: tuple[str, ...] = (),
        enable_thinking: bool = False,
    ) -> None:
        self.session_id = session_id
        self.messages = list(messages)
        self._num_kept = 0
        self._client = client
        self._tools = tools
        self._enable_thinking = enable_thinking

    async def fork(self, child_id: str | None = None) -> Session:
        """Another session with the same history, which goes on by itself.

        What the cluster keeps of this one serves both; where it keeps nothing any more, the
        child's first turn costs more.
        """
        child = self._client.session(
            child_id, tools=self._tools, enable_thinking=self._enable_thinking
        )
        child.messages = list(self.messages)
        child._num_kept = self._num_kept
        with contextlib.suppress(NotFound):
            await self._client.fork_session(self.session_id, child.session_id)
        return child

    async def pause(self, seconds: float) -> None:
        """The next turn will come in about so long: a tool runs. Where nothing is kept of the
        session any more, this changes nothing.
        """
        with contextlib.suppress(NotFound):
            await self._client.renew_session(self.session_id, pause_s=seconds)

    async def turn(
        self,
        *new: str | Message,
        sampling: SamplingParams | None = None,
        stop: StopConditions | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[TurnEvent, None]:
        """Adds `new` (a text is a user's message), streams the answer, and remembers both.

        With tools, calls in the answer become `tool_calls` of the message that is remembered. A
        turn that fails, or that the caller leaves early, leaves the history as it was.
        """
        added = [Message(role="user", content=m) if isinstance(m, str) else m for m in new]
        self._num_kept = min(self._num_kept, len(self.messages))
        chat = ChatInput(
            messages=(*self.messages, *added),
            tools=self._tools,
            enable_thinking=self._enable_thinking,
        )
        text: list[str] = []
        events = self._send(chat, sampling=sampling, stop=stop, timeout_s=timeout_s)
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, TokenDelta):
                    text.append(event.text)
                if isinstance(event, TurnEnd):
                    self.messages += [*added, read_answer("".join(text), self._tools)]
                    self._num_kept = event.kept_messages
                yield event

    async def _send(
        self,
        chat: ChatInput,
        *,
        sampling: SamplingParams | None,
        stop: StopConditions | None,
        timeout_s: float | None,
    ) -> AsyncGenerator[TurnEvent, None]:
        """What the router lacks of `chat`; all of it if the router says that it lacks more."""

        def stream(chat: ChatInput, timeout_s: float | None) -> AsyncGenerator[TurnEvent, None]:
            return self._client.stream(
                chat,
                session_id=self.session_id,
                sampling=sampling,
                stop=stop,
                timeout_s=timeout_s,
            )

        began_at = time.monotonic()
        if self._num_kept:
            try:
                new = stream(continuation(chat, self._num_kept), timeout_s)
                async with contextlib.aclosing(new) as events:
                    async for event in events:
                        yield event
                return
            # The refusal comes in place of the first event.
            except UnknownHistory:
                self._num_kept = 0
        time_left_s = timeout_s and timeout_s - (time.monotonic() - began_at)
        async with contextlib.aclosing(stream(chat, time_left_s)) as events:
            async for event in events:
                yield event
