"""Sessions of several turns, as a client sees them: tokens, failures and silence."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from segue.api.errors import SegueError
from segue.api.turn import TokenDelta, TurnEnd, TurnEvent, TurnStarted
from segue.api.types import SamplingParams, SessionId, StopConditions, TurnInput
from segue.sdk.client import Client
from segue.sdk.session import Session

NUM_SESSIONS = 8
NUM_TURNS = 3
STOP = StopConditions(max_tokens=40, ignore_eos=True)
_TURN_S = 60.0
# For this long a client retries a turn that failed.
_AGAIN_S = 30.0
_PAUSE_S = 0.2
# About 600 tokens: more than a decode worker computes itself, and several prefill passes.
_NUM_WORDS = 220
_SYLLABLES = ("ba", "ke", "li", "mo", "nu", "ra", "se", "ti", "vo", "zu")


def text_of(seed: int, session: int, turn: int) -> str:
    """The user's message, of words that no other session has."""
    words = random.Random(f"{seed}/{session}/{turn}")
    text = " ".join("".join(words.choices(_SYLLABLES, k=2)) for _ in range(_NUM_WORDS))
    return f"{text}. Count from {session + turn} to 60."


def sampling_of(seed: int, session: int) -> SamplingParams:
    """Half of the sessions are greedy, half are sampled with a seed."""
    if session % 2 == 0:
        return SamplingParams(temperature=0.0)
    return SamplingParams(temperature=1.2, top_k=40, frequency_penalty=0.3, seed=seed + session)


@dataclass(slots=True)
class Heard:
    """One turn of one session."""

    session: int
    number: int
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    prefill_worker: str = ""
    decode_worker: str = ""
    longest_gap_s: float = 0.0
    """Between two events, or the request and the first one; over all tries."""
    failures: list[str] = field(default_factory=list)
    """The error of each try that failed."""
    partial: list[list[int]] = field(default_factory=list)
    """The tokens that came before each of them."""
    resumed: int = 0
    is_over: bool = False

    def take(self, event: TurnEvent) -> None:
        match event:
            case TurnStarted():
                self.prefill_worker = event.prefill_worker
                self.decode_worker = event.decode_worker
            case TokenDelta():
                self.token_ids += event.token_ids
                self.text += event.text
            case TurnEnd():
                self.resumed = event.usage.resumed
                self.is_over = True


class Door(Protocol):
    """How clients reach the cluster. It keeps the sessions' histories."""

    def turn(
        self, session: int, text: str, sampling: SamplingParams
    ) -> contextlib.AbstractAsyncContextManager[AsyncIterator[TurnEvent]]: ...


class _Salted:
    """Shares no cached prefix with other runs of the same texts: each must compute its prompts."""

    def __init__(self, client: Client, salt: str) -> None:
        self._client = client
        self._salt = salt

    def stream(self, turn_input: TurnInput, **options: Any) -> Any:
        return self._client.stream(turn_input, cache_salt=self._salt, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


class SdkDoor:
    """Sessions of the SDK, over one connection."""

    def __init__(self, client: Client, salt: str) -> None:
        salted = _Salted(client, salt)
        self._sessions = [
            Session(salted, SessionId(f"{salt}-{index}"), []) for index in range(NUM_SESSIONS)
        ]

    @contextlib.asynccontextmanager
    async def turn(
        self, session: int, text: str, sampling: SamplingParams
    ) -> AsyncIterator[AsyncIterator[TurnEvent]]:
        stream = self._sessions[session].turn(text, sampling=sampling, stop=STOP, timeout_s=_TURN_S)
        async with contextlib.aclosing(stream):
            yield stream


OnEvent = Callable[[Heard, TurnEvent], None]


async def say(door: Door, seed: int, heard: Heard, on_event: OnEvent) -> None:
    """Runs one turn, and again for as long as it fails. Fills `heard` as it goes."""
    text = text_of(seed, heard.session, heard.number)
    sampling = sampling_of(seed, heard.session)
    last_at = started_at = time.monotonic()
    while not heard.is_over:
        heard.token_ids, heard.text = [], ""
        try:
            async with asyncio.timeout(_TURN_S), door.turn(heard.session, text, sampling) as events:
                async for event in events:
                    now = time.monotonic()
                    heard.longest_gap_s = max(heard.longest_gap_s, now - last_at)
                    last_at = now
                    heard.take(event)
                    on_event(heard, event)
        # Whatever a client may get is a result, other errors than ours above all.
        except Exception as error:
            heard.failures.append(_words_of(error))
            heard.partial.append(heard.token_ids)
            if time.monotonic() > started_at + _AGAIN_S:
                break
            await asyncio.sleep(_PAUSE_S)
    heard.longest_gap_s = max(heard.longest_gap_s, time.monotonic() - last_at)


def _words_of(error: Exception) -> str:
    kind = type(error).__name__
    return f"{kind}: {error}" if isinstance(error, SegueError) else f"NOT OURS {kind}: {error}"


async def all_say(
    door: Door,
    seed: int,
    number: int,
    on_event: OnEvent = lambda heard, event: None,
    turns: list[Heard] | None = None,
) -> list[Heard]:
    """One turn of every session at the same time. `turns` gets them at once, to be filled."""
    turns = [] if turns is None else turns
    turns += [Heard(session, number) for session in range(NUM_SESSIONS)]
    await asyncio.gather(*(say(door, seed, heard, on_event) for heard in turns))
    return turns


async def undisturbed(door: Door, seed: int) -> list[Heard]:
    """Raises RuntimeError if a turn fails even so."""
    turns = [heard for number in range(NUM_TURNS) for heard in await all_say(door, seed, number)]
    if failures := [failure for heard in turns for failure in heard.failures]:
        raise RuntimeError(f"turns fail without a fault: {failures[0]}")
    return turns


def num_wrong(turns: Sequence[Heard], expected: Sequence[Heard]) -> int:
    """Turns whose answer differs from that of the undisturbed run, in a try that failed too.

    A session that has lost a turn has another history from then on.
    """
    lost_at = {heard.session: heard.number for heard in reversed(turns) if not heard.is_over}
    return sum(
        not _is_right(heard, whole)
        for heard, whole in zip(turns, expected, strict=True)
        if heard.number <= lost_at.get(heard.session, NUM_TURNS)
    )


def _is_right(heard: Heard, whole: Heard) -> bool:
    assert (heard.session, heard.number) == (whole.session, whole.number)
    is_same = heard.token_ids == whole.token_ids and heard.text == whole.text
    return (is_same or not heard.is_over) and all(
        partial == whole.token_ids[: len(partial)] for partial in heard.partial
    )


def longest_silence_s(turns: Sequence[Heard], expected: Sequence[Heard]) -> float:
    """The longest gap, beyond the longest one of the undisturbed run."""
    gap_s = max(heard.longest_gap_s for heard in turns)
    return max(0.0, gap_s - max(heard.longest_gap_s for heard in expected))
