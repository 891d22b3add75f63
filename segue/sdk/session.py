"""A conversation in the Python SDK. `Client.session` creates one."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from segue.answers import AUTO, AnswerParser, ParserNames, gather
from segue.api.checks import require_label, require_seconds
from segue.api.errors import InvalidRequest, NotFound
from segue.api.history import DigestChain, continuation
from segue.api.turn import TokenDelta, TurnEnd, TurnEvent, TurnStarted
from segue.api.types import (
    ChatInput,
    Message,
    OutputFormat,
    SamplingParams,
    SessionId,
    StopConditions,
)
from segue.sdk.inputs import MessageInput, as_message, new_messages
from segue.text.conversation import read_template_kwargs

if TYPE_CHECKING:
    from segue.sdk.client import Client


class Session:
    """A conversation that keeps its own history: the client's copy is authoritative.

    It sends only the messages that the router lacks, or the whole history if the router's copy is
    shorter or differs. So `messages` may be changed freely between turns.
    """

    def __init__(
        self,
        client: Client,
        session_id: SessionId,
        messages: Sequence[Message],
        *,
        tools: tuple[str, ...] = (),
        enable_thinking: bool | None = None,
        chat_template_kwargs: str = "",
    ) -> None:
        self.session_id = session_id
        self.messages = list(messages)
        self._num_kept = 0
        self._num_turns = 0
        self._chain = DigestChain()
        self._client = client
        self._tools = tools
        self._enable_thinking = enable_thinking
        self._chat_template_kwargs = chat_template_kwargs

    async def fork(self, child_id: str | None = None) -> Session:
        """Returns another session with the same history, which continues independently.

        Both share the memory that the cluster retains of this session. If it retains none, the
        child's first turn costs more.
        """
        require_label("session_id", "" if child_id is None else child_id)
        child = Session(
            self._client,
            SessionId(child_id or uuid.uuid4().hex),
            self.messages,
            tools=self._tools,
            enable_thinking=self._enable_thinking,
            chat_template_kwargs=self._chat_template_kwargs,
        )
        child._num_kept = self._num_kept
        with contextlib.suppress(NotFound):
            await self._client.fork_session(self.session_id, child.session_id)
        return child

    async def pause(self, seconds: float) -> None:
        """Announces that the next turn will come in about `seconds`, for example after a tool call.
        Has no effect if the cluster retains nothing of the session.
        """
        require_seconds("pause", seconds)
        with contextlib.suppress(NotFound):
            await self._client.renew_session(self.session_id, pause_s=seconds)

    async def turn(
        self,
        *new: MessageInput | Sequence[MessageInput],
        sampling: SamplingParams | None = None,
        stop: StopConditions | None = None,
        output: OutputFormat | None = None,
        timeout_s: float | None = None,
        continue_final_message: bool | str = False,
    ) -> AsyncGenerator[TurnEvent, None]:
        """Adds `new`, streams the answer, and adds it to the history. A text is a user message; a
        dictionary is a message in OpenAI's format; a list holds several.

        With tools, calls in the answer become `tool_calls` of the added message. A call cut off by
        `max_tokens`, a stop string or a cancellation stays text. A turn that fails, or that the
        caller leaves early, does not change the history. With `continue_final_message` the last
        message is the start of the answer (or of its `reasoning`, if that is named), and the stream
        continues from there.

        Run turns one after the other: if another turn starts before this one ends, this raises
        InvalidRequest in place of the last event, and the history does not get the answer.
        """
        self._num_turns = number = self._num_turns + 1
        added = new_messages(new)
        self.messages[:] = [
            as_message(one, f"session.messages[{index}]") for index, one in enumerate(self.messages)
        ]
        self._num_kept = min(self._num_kept, len(self.messages))
        chat = ChatInput(
            messages=(*self.messages, *added),
            tools=self._tools,
            enable_thinking=self._enable_thinking,
            chat_template_kwargs=self._chat_template_kwargs,
            continue_final_message=continue_final_message,
        )
        text: list[str] = []
        parsers = AUTO
        events = self._client.stream(
            continuation(chat, self._num_kept, self._chain.of(chat)) if self._num_kept else chat,
            session_id=self.session_id,
            sampling=sampling,
            stop=stop,
            output=output,
            timeout_s=timeout_s,
            whole=chat if self._num_kept else None,
        )
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, TurnStarted):
                    parsers = ParserNames(event.tool_call_parser, event.reasoning_parser)
                if isinstance(event, TokenDelta):
                    text.append(event.text)
                if isinstance(event, TurnEnd):
                    if self._num_turns != number:
                        raise InvalidRequest(
                            "another turn of this session started before this one ended, so this "
                            "answer is not added to the history: wait for a turn's end before the "
                            "next one, or fork the session"
                        )
                    answer = "".join(text)
                    message = self._answer(chat, answer, parsers, is_whole=event.is_whole)
                    self._remember(chat, message, event.kept_messages)
                yield event

    def _remember(self, chat: ChatInput, answer: Message, num_kept: int) -> None:
        """Adds the answer to the messages of `chat`. The router stores the first `num_kept`."""
        before = chat.messages[:-1] if chat.continued_field else chat.messages
        self.messages[:] = [*before, answer]
        # A continued message now differs from the one that the router has.
        self._num_kept = min(num_kept, len(before))

    def _answer(
        self, chat: ChatInput, text: str, parsers: ParserNames, *, is_whole: bool
    ) -> Message:
        """The last message after `chat` and its answer. An answer that was cut off is not whole."""
        reasoning, starts_in_reasoning = parsers.reasoning, None
        partial = chat.messages[-1]
        if chat.continued_field == "content":
            text = partial.content + "".join(partial.content_parts) + text
            reasoning = "none"
        elif chat.continued_field:
            text = (partial.reasoning or "") + text
            starts_in_reasoning = True
        elif read_template_kwargs(chat).get("enable_thinking") is False:
            # Some templates render reasoning in the history only if it is in its own field.
            reasoning = "none"
        parser = AnswerParser(
            tools=self._tools,
            tool_calls=parsers.tool_calls,
            reasoning=reasoning,
            starts_in_reasoning=starts_in_reasoning,
        )
        answer = gather(parser.push(text) + parser.finish(is_whole=is_whole))
        if chat.continued_field == "content":
            return replace(answer, reasoning=partial.reasoning)
        return answer
