"""A conversation of the Python SDK: `Client.session` makes one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING

from segue.errors import NotFound, UnknownHistory
from segue.history import continuation
from segue.tool_calls import read_answer
from segue.turn import FinishReason, TokenDelta, TurnEnd, TurnEvent
from segue.types import ChatInput, Message, SamplingParams, SessionId, StopConditions

if TYPE_CHECKING:
    from segue.client import Client


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

        With tools, calls in the answer become `tool_calls` of the message that is remembered; a
        call that `max_tokens` or a cancellation cut off stays text. A turn that fails, or that the
        caller leaves early, leaves the history as it was.
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
                    is_whole = event.finish_reason is FinishReason.STOP
                    answer = read_answer("".join(text), self._tools, is_whole=is_whole)
                    self.messages += [*added, answer]
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
