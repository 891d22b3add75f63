"""A turn whose stream breaks continues on whichever router answers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from typing import Any

import pytest

from segue.api.errors import (
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    Overloaded,
    SegueError,
    TakenOver,
    Unavailable,
    UnknownHistory,
)
from segue.api.turn import FinishReason, TokenDelta, TurnEnd, TurnEvent, TurnStarted
from segue.api.types import (
    ChatInput,
    Message,
    SamplingParams,
    SessionId,
    StopConditions,
    TextInput,
    TurnId,
    TurnRequest,
)
from segue.sdk.client import Client
from segue.sdk.targets import Targets
from segue.sdk.turns import is_patient, router_key
from tests.sdk.fake_router import (
    NUM_TOKENS,
    FakeRouter,
    coming_back,
    free_address,
    serving_on,
    token,
)

SEED = 5
SEEDED = SamplingParams(seed=SEED)
WHOLE = [token(SEED, at) for at in range(NUM_TOKENS)]
TEXT = "".join(f"{at} " for at in range(NUM_TOKENS))


async def events_of(client: Client, *, within_s: float = 20.0, **options: Any) -> list[TurnEvent]:
    async with asyncio.timeout(within_s):
        turn = client.stream(TextInput("x"), **{"sampling": SEEDED, **options})
        return [event async for event in turn]


def tokens_in(events: list[TurnEvent]) -> list[int]:
    deltas = (event for event in events if isinstance(event, TokenDelta))
    return list(itertools.chain.from_iterable(delta.token_ids for delta in deltas))


def text_in(events: list[TurnEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TokenDelta))


def end_of(events: list[TurnEvent]) -> TurnEnd:
    (end,) = (event for event in events if isinstance(event, TurnEnd))
    assert events[-1] is end
    return end


def unconnected() -> Unavailable:
    return Unavailable.unreachable("nothing listens there", was_sent=False)


def num_started(events: list[TurnEvent]) -> int:
    return sum(isinstance(event, TurnStarted) for event in events)


@pytest.mark.parametrize("dies_after", [[0], [1], [7], [NUM_TOKENS], [3, 4, 9]], ids=str)
async def test_the_answer_of_a_router_that_dies_goes_on_when_it_is_back(
    dies_after: list[int],
) -> None:
    router = FakeRouter(dies_after=dies_after[:])
    async with coming_back(router) as address, Client(address) as client:
        events = await events_of(client, session_id="s")

    assert tokens_in(events) == WHOLE
    assert text_in(events) == TEXT
    assert num_started(events) == 1
    # A turn without tokens is sent again, and not resumed.
    assert end_of(events).usage.resumed == sum(num > 0 for num in dies_after)
    assert end_of(events).usage.completion_tokens == NUM_TOKENS


async def test_what_the_first_router_chose_is_named_to_the_next() -> None:
    router = FakeRouter(dies_after=[4])
    async with coming_back(router) as address, Client(address) as client:
        events = await events_of(client, session_hint="mine", sampling=SamplingParams())

    first, second = router.asked
    assert first.sampling.seed == second.sampling.seed > 0
    assert first.turn_id == second.turn_id != ""
    assert not first.HasField("resume")
    assert (second.session_id, second.session_hint) == ("mine", "mine")
    assert second.stop.max_tokens == 64
    assert list(second.resume.token_ids) == tokens_in(events)[:4]
    assert (second.resume.prefill_worker, second.resume.decode_worker) == ("prefill-a", "decode-a")


async def test_turns_over_one_stream_each_go_on() -> None:
    router = FakeRouter(dies_after=[2, 100, 100, 100])
    async with coming_back(router) as address, Client(address) as client:
        turns = await asyncio.gather(
            *(events_of(client, sampling=SamplingParams(seed=seed)) for seed in range(4))
        )

    for seed, events in enumerate(turns):
        assert tokens_in(events) == [token(seed, at) for at in range(NUM_TOKENS)]


async def test_a_long_prompt_goes_on_too() -> None:
    router = FakeRouter(dies_after=[5])
    async with coming_back(router) as address, Client(address) as client:
        turn = client.stream(TextInput("x" * 300_000), sampling=SEEDED)
        events = [event async for event in turn]

    assert tokens_in(events) == WHOLE


async def test_a_dead_router_is_passed_over() -> None:
    async with serving_on(FakeRouter()) as address:
        for targets in ([free_address(), address], f"{address}, {free_address()}"):
            async with Client(targets) as client:
                for name in "abcd":
                    events = await events_of(client, session_id=name)
                    assert tokens_in(events) == WHOLE
                    assert end_of(events).usage.resumed == 0
                assert (await client.status()).model == "a"


async def test_another_router_goes_on_and_the_first_has_its_session_back_later() -> None:
    a, b = FakeRouter("a"), FakeRouter("b")
    async with coming_back(a) as first, serving_on(b) as second, Client([first, second]) as client:
        sessions = [f"s{number}" for number in range(100)]
        of_a = next(s for s in sessions if client._targets.ranked(s)[0].target == first)
        a.dies_after = [6]
        events = await events_of(client, session_id=of_a)
        went_on = end_of(events).decode_worker
        await a_is_up(client, first)
        again = end_of(await events_of(client, session_id=of_a)).decode_worker

    assert tokens_in(events) == WHOLE
    assert (went_on, again) == ("decode-b", "decode-a")


async def a_is_up(client: Client, target: str) -> None:
    (link,) = (link for link in client._targets.links if link.target == target)
    async with asyncio.timeout(10):
        while not link.is_up:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("no"),
        Overloaded.after("full", retry_after_s=9.0),
        UnknownHistory("which?"),
        Unavailable("there are no workers"),
        SegueError("a bug"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_refusal_is_not_sent_again(error: SegueError) -> None:
    router = FakeRouter(refuses=[error])
    async with serving_on(router) as address, Client(address) as client:
        with pytest.raises(type(error), match=str(error)):
            await events_of(client)

    assert len(router.asked) == 1


async def test_a_turn_that_another_call_took_over_is_not_fought_for() -> None:
    router = FakeRouter(dies_after=[3], refuses=[None, TakenOver("another call has it")])
    async with coming_back(router) as address, Client(address) as client:
        with pytest.raises(TakenOver):
            await events_of(client)


async def test_a_router_that_is_back_before_its_workers_or_full_is_asked_again() -> None:
    refuses = [None, Unavailable("no worker"), Overloaded.after("full", retry_after_s=0.05)]
    router = FakeRouter(dies_after=[4], refuses=refuses)
    async with coming_back(router) as address, Client(address) as client:
        assert tokens_in(await events_of(client)) == WHOLE

    assert [len(request.resume.token_ids) for request in router.asked] == [0, 4, 4, 4]
    assert [request.resume.resumed for request in router.asked] == [0, 1, 1, 1]


async def test_a_turn_that_was_placed_and_then_refused_is_not_sent_again() -> None:
    router = FakeRouter(refuses_after_start=[Unavailable("its worker is draining")])
    async with serving_on(router) as address, Client(address) as client:
        with pytest.raises(Unavailable, match="its worker is draining"):
            await events_of(client)

    assert len(router.asked) == 1


async def test_a_router_that_drains_sends_the_turn_elsewhere() -> None:
    refuses: list[SegueError | None] = [Unavailable("draining")] * 4
    async with (
        serving_on(FakeRouter("a", refuses=refuses)) as first,
        serving_on(FakeRouter("b")) as second,
        Client([first, second]) as client,
    ):
        for name in "abcdefgh":
            assert tokens_in(await events_of(client, session_id=name)) == WHOLE


async def test_the_only_router_that_drains_is_asked_again_for_as_long_as_it_does() -> None:
    # Longer than the client waits for a router that is gone.
    router = FakeRouter(refuses=[Draining("it stops")] * 4)
    async with serving_on(router) as address, Client(address, reconnect_s=0.2) as stranger:
        began_at = time.monotonic()
        assert tokens_in(await events_of(stranger)) == WHOLE

    assert time.monotonic() - began_at > 0.2
    assert len(router.asked) == 5


async def test_a_turn_that_a_draining_router_refused_runs_on_its_successor() -> None:
    router = FakeRouter(refuses=[Draining("it stops")])
    async with coming_back(router, after_s=0.3) as address, Client(address) as stranger:
        turn = asyncio.ensure_future(events_of(stranger))
        while not router.asked:
            await asyncio.sleep(0.01)
        router.death.set()
        assert tokens_in(await turn) == WHOLE


async def test_a_call_waits_for_a_router_that_was_there_before() -> None:
    router = FakeRouter()
    async with coming_back(router, after_s=0.3) as address, Client(address) as client:
        await client.renew_session("s")
        router.death.set()
        await asyncio.sleep(0.1)
        assert await client.renew_session("s") == 7.0
        router.death.set()
        await asyncio.sleep(0.1)
        with pytest.raises(Unavailable):
            await client.status()

    async with Client(free_address()) as stranger:
        began_at = time.monotonic()
        with pytest.raises(Unavailable, match="nothing listens there"):
            await stranger.renew_session("s")
        assert time.monotonic() - began_at < 5


async def test_without_a_router_a_new_client_fails_at_once_and_a_known_one_waits() -> None:
    router = FakeRouter()
    async with Client(free_address()) as stranger:
        began_at = time.monotonic()
        with pytest.raises(Unavailable, match="nothing listens there: start one with"):
            await events_of(stranger)
        assert time.monotonic() - began_at < 5

    async with coming_back(router, after_s=0.5) as address, Client(address) as client:
        await events_of(client)
        router.death.set()
        await asyncio.sleep(0.1)
        assert tokens_in(await events_of(client)) == WHOLE


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"timeout_s": 0.6}, DeadlineExceeded, "no complete answer within 0.6 s"),
        ({}, Unavailable, "gave up after retrying the turn for 0.4 s"),
    ],
    ids=["deadline", "patience"],
)
async def test_a_router_that_stays_away_costs_no_more_than_the_limit(
    options: dict[str, Any], kind: type[SegueError], message: str
) -> None:
    reconnect_s = 30.0 if options else 0.4
    router = FakeRouter(dies_after=[2])
    async with serving_on(router) as address, Client(address, reconnect_s=reconnect_s) as client:
        began_at = time.monotonic()
        with pytest.raises(kind, match=message):
            await events_of(client, **options)

    assert time.monotonic() - began_at < 5


async def test_the_time_of_a_turn_is_for_all_its_streams() -> None:
    router = FakeRouter(dies_after=[2])
    async with coming_back(router, after_s=0.3) as address, Client(address) as client:
        await events_of(client, timeout_s=9.0)

    first, second = router.timeouts
    assert first is not None
    assert second is not None
    assert second < first - 0.3


async def test_a_turn_is_cancelled_while_no_router_has_it() -> None:
    router = FakeRouter(dies_after=[2])
    async with serving_on(router) as address, Client(address) as client:
        turn = asyncio.ensure_future(events_of(client, turn_id="t"))
        await router.death.wait()
        async with asyncio.timeout(10):
            while not await client.cancel("t"):
                await asyncio.sleep(0.01)
            events = await turn

    end = end_of(events)
    assert (end.finish_reason, end.usage.completion_tokens) == (FinishReason.CANCELLED, 2)
    assert tokens_in(events) == WHOLE[:2]


async def test_a_caller_that_leaves_while_it_waits_sends_nothing_more() -> None:
    router = FakeRouter(dies_after=[2])
    async with coming_back(router, after_s=0.2) as address, Client(address) as client:
        turn = asyncio.ensure_future(events_of(client))
        await router.death.wait()
        await asyncio.sleep(0.1)
        turn.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await turn
        await asyncio.sleep(0.4)
        assert not client._turns.knows(router.asked[0].turn_id)

    assert len(router.asked) == 1


async def test_closing_the_client_ends_a_turn_that_waits() -> None:
    router = FakeRouter(dies_after=[2])
    async with serving_on(router) as address:
        client = Client(address)
        turn = asyncio.ensure_future(events_of(client))
        await router.death.wait()
        await asyncio.sleep(0.1)
        await client.close()
        with pytest.raises(Unavailable):
            await turn


async def test_a_router_without_the_history_gets_all_messages_in_mid_answer() -> None:
    router = FakeRouter(dies_after=[4], refuses=[None, UnknownHistory("gone")])
    async with coming_back(router) as address, Client(address) as client:
        session = client.session("s")
        session.messages[:] = [
            Message(role="user", content="a"),
            Message(role="assistant", content="b"),
        ]
        session._num_kept = 1
        async for _ in session.turn("c", sampling=SEEDED):
            pass

    assert [len(request.chat.messages) for request in router.asked] == [2, 2, 3]
    assert [len(request.resume.token_ids) for request in router.asked] == [0, 4, 4]
    assert session.messages[-1].content == TEXT


async def test_a_limit_of_the_caller_stays() -> None:
    router = FakeRouter(dies_after=[4])
    async with coming_back(router) as address, Client(address) as client:
        events = await events_of(client, stop=StopConditions(max_tokens=6))

    assert tokens_in(events) == WHOLE[:6]


@pytest.mark.parametrize(
    ("error", "has_started", "was_reached", "was_broken", "waits"),
    [
        (unconnected(), False, False, False, False),
        (unconnected(), False, True, False, True),
        (unconnected(), True, False, False, True),
        (Unavailable.unreachable("it broke"), False, False, False, True),
        (Unavailable("x"), False, True, False, False),
        (Unavailable("x"), False, True, True, True),
        (Unavailable("x"), True, True, False, True),
        (Draining("x"), False, False, False, True),
        (Draining("x"), True, True, True, True),
        (Overloaded("x"), False, True, True, False),
        (Overloaded("x"), True, True, False, True),
        (InvalidRequest("x"), True, True, True, False),
        (DeadlineExceeded("x"), True, True, True, False),
        (TakenOver("x"), True, True, True, False),
    ],
)
def test_what_a_turn_waits_for(
    error: SegueError, has_started: bool, was_reached: bool, was_broken: bool, waits: bool
) -> None:
    assert waits is is_patient(
        error, has_started=has_started, was_reached=was_reached, was_broken=was_broken
    )


async def test_sessions_are_spread_and_a_router_that_goes_moves_only_its_own() -> None:
    keys = [f"session {number}" for number in range(3_000)]
    three, two = Targets("a:1,b:1,c:1"), Targets("a:1,b:1")
    before = {key: three.ranked(key)[0].target for key in keys}
    after = {key: two.ranked(key)[0].target for key in keys}
    moved = [key for key in keys if before[key] != after[key]]
    await three.close()
    await two.close()

    assert all(800 < num < 1_200 for num in Counter(before.values()).values())
    assert {before[key] for key in moved} == {"c:1"}


def test_all_turns_of_a_conversation_have_one_key() -> None:
    system, question = Message(role="system", content="s"), Message(role="user", content="q")
    answer, more = Message(role="assistant", content="a"), Message(role="user", content="more")

    def key(*messages: Message, hint: str | None = "", session: str = "", turn: str = "t") -> str:
        return router_key(
            TurnRequest(
                session_id=SessionId(session),
                turn_id=TurnId(turn),
                session_hint=hint,
                input=ChatInput(messages=messages),
            )
        )

    first = key(system, question)
    assert key(system, question, answer, more, turn="u") == first
    assert key(system, more) != first
    assert key(question) != first
    assert key(system, question, hint="another") != first
    assert key(system, question, hint=None, session="s") == "s"
    assert key(system, question, hint=None) == "t"


async def test_a_call_goes_to_the_next_router_unless_it_may_have_been_carried_out() -> None:
    a, b = FakeRouter("a"), FakeRouter("b")
    async with serving_on(a) as first, serving_on(b) as second, Client([first, second]) as client:
        of_a = next(
            name for name in map(str, range(100)) if client._targets.ranked(name)[0].target == first
        )
        a.dies_after = [0]
        assert await client.renew_session(of_a) == 7.0
        assert (a.calls, b.calls) == (["renew"], ["renew"])
        # Nothing listens there any more, so the fork was not made.
        await client.fork_session(of_a, "child")
        assert b.calls == ["renew", "fork"]
    a, b = FakeRouter("a", dies_after=[0]), FakeRouter("b", dies_after=[0])
    async with serving_on(a) as first, serving_on(b) as second, Client([first, second]) as client:
        with pytest.raises(Unavailable):
            await client.fork_session("parent", "child")
        assert sorted([*a.calls, *b.calls]) == ["fork"]


async def test_a_turn_is_cancelled_on_whichever_router_runs_it() -> None:
    a, b = FakeRouter("a"), FakeRouter("b", knows_turns=True)
    async with (
        serving_on(a) as first,
        serving_on(b) as second,
        Client([first, free_address(), second]) as client,
    ):
        assert await client.cancel("t")
        b.knows_turns = False
        assert not await client.cancel("t")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([], "at least one address"),
        (["127.0.0.1:1", 7], "target must be a text"),
        ("127.0.0.1:1,", "HOST:PORT"),
        ("127.0.0.1:1,http://x:2", "HOST:PORT"),
        (["127.0.0.1:1", "127.0.0.1:x"], "not a valid port"),
    ],
    ids=str,
)
async def test_a_wrong_list_of_targets_is_refused(targets: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        Client(targets)


async def test_a_chat_that_continues_a_history_needs_no_whole() -> None:
    """The public call, without a session's copy of the conversation."""
    router = FakeRouter(refuses=[UnknownHistory("gone")])
    chat = ChatInput(messages=(Message(role="user", content="a"),))
    async with serving_on(router) as address, Client(address) as client:
        with pytest.raises(UnknownHistory):
            await client.generate(chat, session_id="s")
