"""The Python SDK: an async client, and sessions that keep their history.

async with Client("127.0.0.1:7411") as client:
    session = client.session()
    async for event in session.turn("My code is 731."):
        if isinstance(event, TokenDelta):
            write(event.text)
"""

from __future__ import annotations

import contextlib
import copy
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from segue.api.api_key import metadata_with, require_api_key
from segue.api.checks import require_label, require_seconds, require_type
from segue.api.messages import require_text
from segue.api.turn import PromptLogprobs, TokenDelta, TurnEnd, TurnEvent
from segue.api.types import (
    ChatInput,
    Message,
    OutputFormat,
    SampledToken,
    SamplingParams,
    SessionId,
    StopConditions,
    TurnId,
    TurnInput,
    TurnRequest,
)
from segue.sdk.chat_json import to_json
from segue.sdk.inputs import tools_as_text
from segue.sdk.operator_calls import OperatorCalls
from segue.sdk.session import Session
from segue.sdk.targets import Targets
from segue.sdk.turns import TurnRunner
from segue.security.config import Security
from segue.security.tls import Tls

DEFAULT_TARGET = "127.0.0.1:7411"
RECONNECT_S = 30.0
"""A router that died is back, with its workers, within a few seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole turn."""

    turn_id: TurnId
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[SampledToken, ...]
    """One per token, if requested."""
    end: TurnEnd
    prompt_logprobs: PromptLogprobs | None = None
    """If requested."""


class Client(OperatorCalls):
    """A client of one or several routers. Raises `segue.api.errors`; use it as an async context
    manager.
    """

    def __init__(
        self,
        target: str | Sequence[str] = DEFAULT_TARGET,
        *,
        api_key: str | None = None,
        tls: Tls | None = None,
        reconnect_s: float = RECONNECT_S,
    ) -> None:
        """`target`: the router's address; of several routers of one cluster, a list, or a text with
        commas. `api_key`: for a router that asks for one. `tls`: for a router with TLS.
        `reconnect_s`: how long a turn whose stream breaks waits for a router to continue it; 0: it
        fails at once.
        """
        require_seconds("reconnect_s", reconnect_s)
        require_type("tls", tls, (Tls, type(None)), "segue.Tls(ca=FILE), or None")
        self._set_key(api_key)
        self._targets = Targets(target, Security(tls=tls))
        self._turns = TurnRunner(self._targets, reconnect_s=reconnect_s)

    @property
    def target(self) -> str:
        """The routers' addresses, with commas between them."""
        return str(self._targets)

    def with_key(self, api_key: str | None) -> Self:
        """A client with another API key that shares this one's connections. Close only this one."""
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

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Running turns fail with Unavailable."""
        await self._targets.close()

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
        whole: ChatInput | None = None,
    ) -> AsyncGenerator[TurnEvent, None]:
        """Yields one turn's events; the last is a TurnEnd. Leaving the loop cancels the turn.

        Fields that `sampling` and `stop` leave unset get the checkpoint's defaults, and the answer
        may be as long as context and memory allow. Without a seed, each turn draws its own.
        `session_hint` replaces `session_id` for a caller that sends the whole conversation each
        time: the router finds the session that it continues (`TurnRequest.session_hint`). Only
        turns with the same `cache_salt` share cached prefixes. Waiting turns with the lowest
        `priority` start first.
        `output` is the required form of the answer, such as `JsonSchema('{"type": "object"}')`.
        `whole` replaces a chat that continues a history if the router lacks that history.

        If the connection breaks, the turn continues as soon as a router is reachable: the events
        are those of an undisturbed turn, and `usage.resumed` counts the breaks.
        """
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
        following = self.follow(request, timeout_s=timeout_s, whole=whole)
        async with contextlib.aclosing(following) as arriving:
            async for events in arriving:
                for event in events:
                    yield event

    def follow(
        self,
        request: TurnRequest,
        *,
        timeout_s: float | None = None,
        whole: ChatInput | None = None,
    ) -> AsyncGenerator[list[TurnEvent], None]:
        """As `stream`, for a caller that relays many turns: yields lists of pending events."""
        require_seconds("timeout_s", timeout_s)
        return self._turns.events(request, whole=whole, timeout_s=timeout_s, api_key=self._api_key)

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
        """Runs one turn and returns the whole answer."""
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
        return await _gathered(TurnId(turn_id), events)


async def _gathered(turn_id: TurnId, events: AsyncIterable[TurnEvent]) -> Answer:
    text: list[str] = []
    token_ids: list[int] = []
    logprobs: list[SampledToken] = []
    end: TurnEnd | None = None
    prompt_logprobs: PromptLogprobs | None = None
    async for event in events:
        match event:
            case TokenDelta():
                text.append(event.text)
                token_ids.extend(event.token_ids)
                logprobs.extend(event.logprobs)
            case PromptLogprobs():
                prompt_logprobs = event
            case TurnEnd():
                end = event
    assert end is not None, "a stream without an error ends with a TurnEnd"
    return Answer(
        turn_id=turn_id,
        text="".join(text),
        token_ids=tuple(token_ids),
        logprobs=tuple(logprobs),
        end=end,
        prompt_logprobs=prompt_logprobs,
    )
