"""Invalid turns are refused with the right status, and the cluster continues."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

import grpc
import pytest

from router.turn.calls import TurnCall
from router.turn.links import worker_calls
from segue.api.errors import InvalidRequest, Unavailable, UnknownPrefix
from segue.api.types import Role, TextInput
from segue.internal.v1 import transfer_pb2
from segue.internal.v1 import worker_pb2 as wire
from segue.internal.v1.worker_pb2_grpc import DecodeWorkerStub
from segue.launch.cluster import Cluster
from segue.sdk.client import Client
from segue.v1 import session_pb2 as pb
from segue.v1.session_pb2_grpc import SessionsStub
from segue.wire.channel import channel_to
from tests.cluster.waiting import is_idle, wait_until_idle

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
async def stub(ray_cluster: Cluster) -> AsyncIterator[SessionsStub]:
    async with channel_to(ray_cluster.address) as channel:
        yield SessionsStub(channel)


def chat(*messages: pb.Message, tools: tuple[str, ...] = ()) -> pb.GenerateRequest:
    return pb.GenerateRequest(chat=pb.ChatInput(messages=messages, tools=tools))


def ids(*token_ids: int) -> pb.TokenIds:
    return pb.TokenIds(ids=token_ids)


USER = pb.Message(role=pb.MESSAGE_ROLE_USER, content="Hello")

BAD: dict[str, tuple[pb.GenerateRequest, str]] = {
    "no input": (pb.GenerateRequest(), "a turn needs an input"),
    "no tokens": (pb.GenerateRequest(token_ids=ids()), "prompt: expected at least one token"),
    "empty text": (pb.GenerateRequest(text=""), "prompt: expected at least one token"),
    "no messages": (chat(), "message"),
    "no role": (
        chat(pb.Message(content="x")),
        "messages[0].role: expected one of system",
    ),
    "unknown role": (
        chat(USER, pb.Message(role=99, content="x")),  # type: ignore[arg-type]  # of the future
        "messages[1].role: expected one of system, developer, user",
    ),
    "nothing to go on from": (
        pb.GenerateRequest(
            chat=pb.ChatInput(messages=[USER], continue_final_message=pb.CONTINUED_FIELD_REASONING)
        ),
        "reasoning_content to be continued",
    ),
    "an unknown field to go on from": (
        pb.GenerateRequest(
            chat=pb.ChatInput(messages=[USER], continue_final_message=99)  # type: ignore[arg-type]
        ),
        "continue_final_message must be",
    ),
    "template variables that are no object": (
        pb.GenerateRequest(chat=pb.ChatInput(messages=[USER], chat_template_kwargs="[]")),
        "chat_template_kwargs must be a JSON object",
    ),
    "a template variable of the router's": (
        pb.GenerateRequest(
            chat=pb.ChatInput(messages=[USER], chat_template_kwargs='{"messages": []}')
        ),
        "cannot set 'messages'",
    ),
    "half a character in JSON": (
        chat(USER, tools=('{"name": "f", "description": "\\ud800"}',)),
        "half of a surrogate pair",
    ),
    "two contents": (
        chat(pb.Message(role=pb.MESSAGE_ROLE_USER, content="a", content_parts=["b"])),
        "content or content_parts",
    ),
    "token id too large": (pb.GenerateRequest(token_ids=ids(1, 10**6)), "prompt[1]: expected ids"),
    "prompt too long": (pb.GenerateRequest(token_ids=ids(*[1] * 9000)), "context is"),
    "negative temperature": (
        pb.GenerateRequest(text="x", sampling=pb.Sampling(temperature=-1)),
        "temperature must be between 0 and 100, got -1",
    ),
    "temperature is not a number": (
        pb.GenerateRequest(text="x", sampling=pb.Sampling(temperature=float("nan"))),
        "temperature must be between",
    ),
    "top_p above one": (
        pb.GenerateRequest(text="x", sampling=pb.Sampling(top_p=1.5)),
        "top_p must be between 0 and 1, got 1.5",
    ),
    "negative top_k": (
        pb.GenerateRequest(text="x", sampling=pb.Sampling(top_k=-1)),
        "top_k (0 keeps every token) must be between 0 and",
    ),
    "absurd penalty": (
        pb.GenerateRequest(text="x", sampling=pb.Sampling(presence_penalty=1e9)),
        "presence_penalty must be between -2 and 2",
    ),
    "negative seed": (
        pb.GenerateRequest(text="x", sampling=pb.Sampling(seed=-4)),
        "seed must be between 0 and",
    ),
    "bias for a token that is not there": (
        pb.GenerateRequest(text="x", sampling=pb.Sampling(logit_bias={10**6: 1.0})),
        "logit_bias: expected ids of the model's tokens, 0 to 1535, got 1000000",
    ),
    "too many logprobs": (
        pb.GenerateRequest(text="x", sampling=pb.Sampling(logprobs=99)),
        "logprobs must be between 0 and 20",
    ),
    "no tokens wanted": (
        pb.GenerateRequest(text="x", stop=pb.Stop(max_tokens=0)),
        "max_tokens must be between 1 and",
    ),
    "empty stop string": (
        pb.GenerateRequest(text="x", stop=pb.Stop(strings=[""])),
        "stop_strings[0]: expected 1 to 1024 characters, got 0",
    ),
    "stop token that is not there": (
        pb.GenerateRequest(text="x", stop=pb.Stop(token_ids=[10**6])),
        "stop_token_ids: expected ids of the model's tokens, 0 to 1535, got 1000000",
    ),
    "tools that are no JSON": (chat(USER, tools=("{not json",)), "tool"),
    "tools that are no functions": (chat(USER, tools=('{"type": "function"}',)), "function"),
    "session name too long": (pb.GenerateRequest(text="x", session_id="s" * 300), "256"),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_input_is_refused_with_its_reason(stub: SessionsStub, case: str) -> None:
    request, reason = BAD[case]

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Generate(request, timeout=30).read()

    assert refused.value.code() is INVALID
    assert reason in str(refused.value.details())


async def test_after_all_refusals_the_cluster_serves_and_holds_nothing(
    ray_cluster: Cluster,
) -> None:
    async with Client(ray_cluster.address) as client:
        answer = await client.generate(TextInput("Hello"))
        status = await wait_until_idle(client)

    assert answer.token_ids
    assert is_idle(status), status


async def test_cancelling_a_turn_that_does_not_run_is_no_error(ray_cluster: Cluster) -> None:
    async with Client(ray_cluster.address) as client:
        assert not await client.cancel("never heard of")


async def test_a_turn_id_that_is_running_is_refused(ray_cluster: Cluster) -> None:
    async with Client(ray_cluster.address) as client:
        running = client.stream(TextInput("Count"), turn_id="twice")
        await anext(running)

        with pytest.raises(InvalidRequest, match="already running"):
            await client.generate(TextInput("Count"), turn_id="twice")

        await running.aclose()


async def test_an_unreachable_target_is_unavailable_and_named() -> None:
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(Unavailable, match=r"router 127\.0\.0\.1:1"):
            await client.generate(TextInput("Hello"), timeout_s=5)


async def collect(call: AsyncIterable[pb.GenerateEvent]) -> list[pb.GenerateEvent]:
    return [event async for event in call]


async def test_an_expired_deadline_ends_the_turn_everywhere(ray_cluster: Cluster) -> None:
    async with channel_to(ray_cluster.address) as channel:
        call = SessionsStub(channel).Generate(
            pb.GenerateRequest(text="Hello", stop=pb.Stop(max_tokens=4000, ignore_eos=True)),
            timeout=0.3,
        )
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await collect(call)
    async with Client(ray_cluster.address) as client:
        status = await wait_until_idle(client)

    assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert is_idle(status), status


async def test_a_worker_refuses_a_turn_with_an_unknown_prefix(
    ray_cluster: Cluster,
) -> None:
    async with Client(ray_cluster.address) as client:
        (decode, *_) = [w for w in (await client.status()).workers if w.role is Role.DECODE]
    turn = wire.TurnSpec(
        turn_id="a", prefix=transfer_pb2.PrefixName(num_tokens=16, digest=b"never heard of it")
    )
    turn.prefix.digest = turn.prefix.digest[:16]

    start = wire.StartTurn(turn=turn, timeout_s=5.0, max_computed_tokens=9)
    async with channel_to(decode.address, ray_cluster.security) as channel:
        calls = worker_calls(DecodeWorkerStub(channel), "decode", "decode-0")
        call = calls.start(wire.TurnCommand(start=start), TurnCall)

        with pytest.raises(UnknownPrefix, match="16 tokens"):
            await call.read()
        await calls.close()
