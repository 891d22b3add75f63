"""Sessions over two gateways, with OpenAI's own client.

Its `max_retries` (2, the default) repeats a request that was not answered yet. A stream that breaks
is the application's: it sends the same request again, as agents do, and the tokens of the first try
come again, since they depend on the prompt and the seed alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx
import openai

from segue.api.turn import FinishReason, TokenDelta, TurnEnd, TurnEvent, Usage
from segue.api.types import SamplingParams
from tests.faults.clients.workload import NUM_SESSIONS, STOP

_MAX_REPEATS = 4


class _Siblings(httpx.AsyncBaseTransport):
    """Sends requests to one gateway until it fails, then to the next: what a load balancer does,
    or an address with two records.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = [httpx.URL(f"http://{address}") for address in addresses]
        self._transport = httpx.AsyncHTTPTransport()
        self.current = 0

    def left(self, index: int) -> None:
        """The gateway has failed a request. Of several that fail together only one moves."""
        if index == self.current:
            self.current = (index + 1) % len(self._addresses)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        index = self.current
        address = self._addresses[index]
        request.url = request.url.copy_with(host=address.host, port=address.port)
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.TransportError:
            self.left(index)
            raise
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            self.left(index)
        return response

    async def aclose(self) -> None:
        await self._transport.aclose()


@contextlib.asynccontextmanager
async def http_door(addresses: Sequence[str], model: str, salt: str) -> AsyncIterator[HttpDoor]:
    siblings = _Siblings(addresses)
    async with openai.AsyncOpenAI(
        base_url=f"http://{addresses[0]}/v1",
        api_key="none",
        http_client=httpx.AsyncClient(transport=siblings, timeout=openai.DEFAULT_TIMEOUT),
    ) as client:
        yield HttpDoor(client, siblings, model, salt)


class HttpDoor:
    """Satisfies `Door`. A chat completion is a turn; the client keeps the messages."""

    def __init__(
        self, client: openai.AsyncOpenAI, siblings: _Siblings, model: str, salt: str
    ) -> None:
        self._client = client
        self._siblings = siblings
        self._model = model
        self._salt = salt
        self._messages: list[list[Any]] = [[] for _ in range(NUM_SESSIONS)]

    @contextlib.asynccontextmanager
    async def turn(
        self, session: int, text: str, sampling: SamplingParams
    ) -> AsyncIterator[AsyncIterator[TurnEvent]]:
        messages = [*self._messages[session], {"role": "user", "content": text}]
        async with contextlib.aclosing(self._events(session, messages, sampling)) as events:
            yield events

    async def _events(
        self, session: int, messages: list[Any], sampling: SamplingParams
    ) -> AsyncGenerator[TurnEvent, None]:
        """The answer's tokens, each once. `Usage.resumed` counts the repeats after a break."""
        answer = _Answer()
        for num_repeats in range(_MAX_REPEATS + 1):
            index = self._siblings.current
            try:
                async for ids, more, reason in self._answer(messages, sampling):
                    yield answer.take(ids, more)
                    if reason:
                        message = {"role": "assistant", "content": answer.text}
                        self._messages[session] = [*messages, message]
                        usage = Usage(resumed=num_repeats)
                        yield TurnEnd(finish_reason=FinishReason(reason), usage=usage)
                        return
            except (openai.APIError, httpx.TransportError):
                # A request that got no answer was repeated by the client already.
                if not answer.token_ids or num_repeats == _MAX_REPEATS:
                    raise
                self._siblings.left(index)
                answer.start_again()

    async def _answer(
        self, messages: list[Any], sampling: SamplingParams
    ) -> AsyncIterator[tuple[Sequence[int], str, str]]:
        """Token ids, text, and the finish reason with the last ones."""
        stream = await self._client.chat.completions.create(
            model=self._model,
            messages=messages,
            stream=True,
            max_tokens=STOP.max_tokens,
            temperature=sampling.temperature,
            frequency_penalty=sampling.frequency_penalty,
            seed=sampling.seed,
            extra_body={
                "top_k": sampling.top_k,
                "ignore_eos": STOP.ignore_eos,
                "return_token_ids": True,
                "cache_salt": self._salt,
            },
        )
        async with stream:
            async for chunk in stream:
                for choice in chunk.choices:
                    ids = getattr(choice, "token_ids", None) or ()
                    yield ids, choice.delta.content or "", choice.finish_reason or ""


@dataclass(slots=True)
class _Answer:
    """An answer so far, over several tries."""

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    _again: tuple[list[int], str] = field(default_factory=lambda: ([], ""))
    """Tokens and text of the present try."""

    def start_again(self) -> None:
        self._again = ([], "")

    def take(self, ids: Sequence[int], text: str) -> TokenDelta:
        """The new part of them. Raises RuntimeError if a try differs from those before."""
        ids_again, text_again = [*self._again[0], *ids], self._again[1] + text
        self._again = ids_again, text_again
        is_same = all(one == other for one, other in zip(ids_again, self.token_ids, strict=False))
        if not is_same or not (
            self.text.startswith(text_again) or text_again.startswith(self.text)
        ):
            raise RuntimeError(f"a repeated answer differs: {text_again!r} after {self.text!r}")
        new = TokenDelta(
            token_ids=tuple(ids_again[len(self.token_ids) :]), text=text_again[len(self.text) :]
        )
        self.token_ids += new.token_ids
        self.text += new.text
        return new
