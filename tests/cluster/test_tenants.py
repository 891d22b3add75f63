"""Two tenants and one cluster, over gRPC and over HTTP with the SDKs that clients have."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anthropic
import grpc
import openai
import pytest
import pytest_asyncio
from google.protobuf.message import Message as ProtobufMessage

from router.config import RouterConfig
from segue.api.errors import NotFound, Overloaded
from segue.api.history import continuation
from segue.api.turn import TurnEnd
from segue.api.types import (
    ChatInput,
    Message,
    SamplingParams,
    SessionId,
    StopConditions,
    TokenInput,
    TurnId,
    TurnRequest,
)
from segue.gateway.__main__ import running as running_gateway
from segue.gateway.config import GatewayConfig
from segue.launch.config import Config
from segue.sdk.client import Answer, Client
from segue.v1 import session_pb2 as pb
from segue.v1.session_pb2_grpc import SessionsStub
from segue.wire.channel import channel_to
from segue.wire.convert.request import request_to_wire
from tests.cluster.conftest import ENGINE, LocalCluster, local_cluster

KEYS = """
[tenants.acme]
keys = ["sk-acme"]
[tenants.blue]
keys = ["sk-blue"]
[tenants.small]
keys = ["sk-small"]
max_turns = 1
tokens_per_minute = 60
"""
STOP = StopConditions(max_tokens=8, ignore_eos=True)
GREEDY = SamplingParams(temperature=0.0)
CHAT: Any = [{"role": "user", "content": "Hello"}]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True, slots=True)
class Shared:
    cluster: LocalCluster
    url: str
    clients: contextlib.AsyncExitStack

    def client(self, tenant: str) -> Client:
        return self.cluster.client.with_key(f"sk-{tenant}")

    async def openai(self, key: str) -> openai.AsyncOpenAI:
        client = openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)
        return await self.clients.enter_async_context(client)

    async def anthropic(self, key: str) -> anthropic.AsyncAnthropic:
        client = anthropic.AsyncAnthropic(base_url=self.url, api_key=key, max_retries=0)
        return await self.clients.enter_async_context(client)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shared]:
    path: Path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(KEYS)
    path.chmod(0o600)
    engine = replace(ENGINE, host_cache_bytes=16 << 20)
    config = Config(router=RouterConfig(api_keys_file=str(path)), engine=engine)
    async with (
        local_cluster("demo", config, api_key="sk-acme") as cluster,
        running_gateway(GatewayConfig(port=0), cluster.client.target) as gateway,
        contextlib.AsyncExitStack() as clients,
    ):
        yield Shared(cluster, f"http://{gateway.address}", clients)


def prompt(first: int) -> TokenInput:
    return TokenInput(tuple(range(first, first + 100)))


async def ask(client: Client, first: int, *, session_id: str = "", cache_salt: str = "") -> Answer:
    return await client.generate(
        prompt(first), session_id=session_id, cache_salt=cache_salt, sampling=GREEDY, stop=STOP
    )


def reused(answer: Answer) -> int:
    """Prompt tokens that were not computed for this answer, or were on decode already."""
    usage = answer.end.usage
    return usage.cached_tokens + usage.pulled_tokens + usage.resident_tokens


@pytest.mark.parametrize("session_id", ["", "s"])
async def test_tenants_share_no_cached_token_and_get_the_same_answer(
    shared: Shared, session_id: str
) -> None:
    first = 100 if session_id else 300
    acme, blue = shared.client("acme"), shared.client("blue")

    one = await ask(acme, first, session_id=session_id)
    again = await ask(acme, first, session_id=session_id)
    other = await ask(blue, first, session_id=session_id)
    other_again = await ask(blue, first, session_id=session_id)

    assert [reused(one), reused(other)] == [0, 0]
    assert min(reused(again), reused(other_again)) >= 80
    assert one.token_ids == again.token_ids == other.token_ids == other_again.token_ids


async def test_within_a_tenant_only_the_same_salt_shares(shared: Shared) -> None:
    acme = shared.client("acme")

    answers = [await ask(acme, 500, cache_salt=salt) for salt in ("a", "b", "a", "", "b")]

    assert [reused(answer) > 0 for answer in answers] == [False, False, True, False, True]
    assert len({answer.token_ids for answer in answers}) == 1


async def test_pages_on_the_host_are_salted_too(shared: Shared) -> None:
    acme, blue = shared.client("acme"), shared.client("blue")
    prefill = shared.cluster.prefill[0]
    await ask(acme, 700)
    async with asyncio.timeout(10):
        while prefill._tier._under_way or prefill._tier._tasks:
            await asyncio.sleep(0.01)
    cache = prefill._memory.cache
    assert cache.make_room(prefill._memory.pages.total, prefill._memory.slots.total)

    loaded = prefill._tier.num_offloaded_tokens
    other, again = await ask(blue, 700), await ask(acme, 700)

    assert loaded > 0
    assert other.end.usage.cached_tokens == 0
    assert again.end.usage.cached_tokens > 0
    assert other.token_ids == again.token_ids


async def test_a_session_of_another_tenant_is_unknown(shared: Shared) -> None:
    acme, blue = shared.client("acme"), shared.client("blue")
    await ask(acme, 900, session_id="mine")

    assert "mine" in {one.session_id for one in await acme.sessions()}
    assert (await acme.explain("mine")).session_id == "mine"
    assert await acme.renew_session("mine") > 0
    assert "mine" not in {one.session_id for one in await blue.sessions()}
    for asked in (blue.explain("mine"), blue.renew_session("mine"), blue.fork_session("mine", "x")):
        with pytest.raises(NotFound) as refused:
            await asked
        assert "acme" not in str(refused.value)
    assert not await blue.release_session("mine")
    await acme.fork_session("mine", "fork")
    assert {"mine", "fork"} <= {one.session_id for one in await acme.sessions()}
    assert await acme.release_session("mine")


NAMING = {"session_id", "session_hint", "parent_id", "child_id", "turn_id"}
"""Fields of requests that name a session or a turn."""
THEIRS = "theirs"
"""A session and a turn of acme; for blue they are nobody's."""


def chat_of(history: Sequence[Message], num_messages: int) -> pb.ChatInput:
    """A new message after the first ones of a conversation, which its sender knows by digest."""
    known = ChatInput(messages=(*history[:num_messages], Message(role="user", content="And?")))
    request = TurnRequest(
        turn_id=TurnId("t"), session_id=SessionId("s"), input=continuation(known, num_messages)
    )
    return request_to_wire(request).chat


async def outcome_of(client: Client, method: str, request: ProtobufMessage, name: str) -> str:
    """What the caller of a method learns, with the name left out: the answer's tokens, or the
    error."""
    async with channel_to(client.target) as channel:
        call = getattr(SessionsStub(channel), method)(request, metadata=client._key)
        try:
            if not hasattr(call, "read"):
                return str(await call).replace(name, "NAME")
            events = [event async for event in call]
        except grpc.aio.AioRpcError as error:
            return f"{error.code()} {error.details()}".replace(name, "NAME")
        usage = events[-1].end.usage
        tokens = [token for event in events for token in event.delta.token_ids]
        return f"{tokens} {usage.cached_tokens} {usage.resident_tokens} {usage.pulled_tokens}"


async def test_no_method_tells_another_tenants_session_from_nobodys(shared: Shared) -> None:
    acme, blue = shared.client("acme"), shared.client("blue")
    session = acme.session(THEIRS, system="Answer in one word. " * 20)
    async for _ in session.turn("My code is 731.", stop=STOP, sampling=GREEDY):
        pass
    history = session.messages
    stop = pb.Stop(max_tokens=4)

    def asked(name: str) -> dict[str, list[ProtobufMessage]]:
        chats = [chat_of(history, num) for num in (1, 2, len(history))]
        turns = [pb.GenerateRequest(session_id=name, chat=chat, stop=stop) for chat in chats]
        return {
            "Generate": turns,
            "Cancel": [pb.CancelRequest(turn_id=name)],
            "RenewSession": [pb.RenewSessionRequest(session_id=name, lease_s=5.0)],
            "ForkSession": [pb.ForkSessionRequest(parent_id=name, child_id=f"{name}-fork")],
            "Explain": [pb.ExplainRequest(session_id=name)],
            "ReleaseSession": [pb.ReleaseSessionRequest(session_id=name)],
        }

    methods = pb.DESCRIPTOR.services_by_name["Sessions"].methods
    naming = {one.name for one in methods if NAMING & set(one.input_type.fields_by_name)}
    assert naming == set(asked(THEIRS)), "a new method that names a session belongs in this table"
    known, other = asked(THEIRS), asked("nobodys")
    for method, requests in known.items():
        for index, request in enumerate(requests):
            theirs = await outcome_of(blue, method, request, THEIRS)
            nobodys = await outcome_of(blue, method, other[method][index], "nobodys")
            assert theirs == nobodys, (method, request)
            if method == "Generate":
                assert await outcome_of(acme, method, request, THEIRS) != theirs, request
    # With the whole conversation and the session's name, blue still finds nothing of acme's.
    whole = ChatInput(messages=(*history, Message(role="user", content="And?")))
    answer = await blue.generate(whole, session_id=THEIRS, sampling=GREEDY, stop=STOP)
    assert reused(answer) == 0
    # It is all still there for its owner.
    assert (await acme.explain(THEIRS)).session_id == THEIRS
    async for event in session.turn("What is my code?", stop=STOP, sampling=GREEDY):
        last = event
    assert isinstance(last, TurnEnd)
    assert last.usage.resident_tokens > 0


async def test_the_same_conversation_of_two_tenants_is_two_sessions(shared: Shared) -> None:
    async def used(key: str, **options: object) -> int:
        client = await shared.openai(key)
        answer = await client.chat.completions.create(
            model="demo",
            messages=[
                {"role": "system", "content": "Be brief. " * 20},
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "Hello!"},
                {"role": "user", "content": "Who are you?"},
            ],
            max_tokens=4,
            extra_body=options,
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        return answer.usage.prompt_tokens_details.cached_tokens or 0

    first = [await used("sk-acme"), await used("sk-blue"), await used("sk-acme", cache_salt="x")]
    again = [await used("sk-acme"), await used("sk-blue"), await used("sk-acme", cache_salt="x")]

    assert first == [0, 0, 0]
    assert min(again) > 0


async def test_the_sdks_see_a_wrong_key_as_such(shared: Shared) -> None:
    wrong, right = await shared.openai("sk-wrong"), await shared.openai("sk-blue")
    other = await shared.anthropic("sk-wrong")
    with pytest.raises(openai.AuthenticationError) as of_openai:
        await wrong.chat.completions.create(model="demo", messages=CHAT)
    with pytest.raises(anthropic.AuthenticationError):
        await other.messages.create(model="demo", messages=CHAT, max_tokens=2)
    with pytest.raises(openai.AuthenticationError):
        await wrong.models.list()

    assert of_openai.value.code == "invalid_api_key"
    assert "sk-wrong" not in of_openai.value.message
    assert [one.id async for one in right.models.list()] == ["demo"]


async def test_the_sdks_see_a_tenants_limits_with_the_time_to_retry(shared: Shared) -> None:
    small, client = shared.client("small"), await shared.openai("sk-small")
    other = await shared.anthropic("sk-small")
    endless = StopConditions(max_tokens=2_000, ignore_eos=True)
    running = asyncio.create_task(small.generate(prompt(50), turn_id="long", stop=endless))
    await asyncio.sleep(0.2)

    with pytest.raises(openai.RateLimitError, match="its max_turns is 1") as of_turns:
        await client.chat.completions.create(model="demo", messages=CHAT)
    assert await small.cancel("long")
    assert (await running).end.finish_reason == "cancelled"
    with pytest.raises(anthropic.RateLimitError, match="60 tokens a minute") as of_tokens:
        await other.messages.create(model="demo", messages=CHAT, max_tokens=2)
    with pytest.raises(Overloaded) as of_grpc:
        await ask(small, 50)

    assert of_turns.value.response.headers["retry-after"] == "1"
    assert int(of_tokens.value.response.headers["retry-after"]) >= 40
    assert of_grpc.value.retry_after_s > 40
