"""Fields that clients leave open, in a whole cluster: sampling, end tokens, lengths, seeds,
text.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from segue.api.errors import ContextOverflow, InvalidRequest
from segue.api.turn import FinishReason
from segue.api.types import SamplingParams, StopConditions, TextInput, TokenInput
from segue.demo import checkpoint_dir
from segue.launch.config import Config
from segue.model.checkpoint.source import CheckpointConfig
from segue.sdk.client import Client
from segue.v1 import session_pb2 as pb
from segue.v1.session_pb2_grpc import SessionsStub
from segue.wire.channel import channel_to
from tests.cluster.conftest import ENGINE, LocalCluster, local_cluster
from tests.cluster.waiting import is_idle, wait_until_idle

END, END_OF_TEXT = 1529, 1527
PROMPT = tuple(range(20, 35))
UNENDING = StopConditions(ignore_eos=True)


@pytest.fixture(scope="module")
def sampling_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with a high temperature in generation_config.json; only the tokenizer names its end
    token.
    """
    folder = tmp_path_factory.mktemp("defaults") / "model"
    shutil.copytree(checkpoint_dir(), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": END_OF_TEXT}))
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 8.0}')
    return folder


@pytest.fixture
async def sampling(sampling_folder: Path) -> AsyncIterator[LocalCluster]:
    async with local_cluster(sampling_folder) as cluster:
        yield cluster


async def ids_of(call: AsyncIterable[pb.GenerateEvent]) -> list[int]:
    return [token_id async for event in call for token_id in event.delta.token_ids]


async def test_the_checkpoint_decides_the_fields_that_clients_leave_open(
    sampling: LocalCluster,
) -> None:
    """Each turn without a seed draws a new one, through the SDK as on the wire."""
    client = sampling.client
    stop = StopConditions(max_tokens=20)

    hot = [await client.generate(TokenInput(PROMPT), stop=stop) for _ in range(2)]
    seeded = [
        await client.generate(TokenInput(PROMPT), stop=stop, sampling=SamplingParams(seed=1))
        for _ in range(2)
    ]
    greedy = [
        await client.generate(TokenInput(PROMPT), stop=stop, sampling=SamplingParams(temperature=0))
        for _ in range(2)
    ]
    async with channel_to(client.target) as channel:
        request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=PROMPT), stop=pb.Stop(max_tokens=20))
        raw = [await ids_of(SessionsStub(channel).Generate(request)) for _ in range(2)]

    assert hot[0].token_ids != hot[1].token_ids
    assert raw[0] != raw[1]
    assert seeded[0].token_ids == seeded[1].token_ids
    assert seeded[0].token_ids not in (greedy[0].token_ids, hot[0].token_ids)
    assert greedy[0].token_ids == greedy[1].token_ids


async def test_an_answer_ends_at_an_end_token_that_only_the_tokenizer_names(
    sampling: LocalCluster,
) -> None:
    towards_the_end = SamplingParams(temperature=0, logit_bias={END: 100.0})

    ended = await sampling.client.generate(TokenInput(PROMPT), sampling=towards_the_end)
    ignoring = await sampling.client.generate(
        TokenInput(PROMPT),
        sampling=towards_the_end,
        stop=StopConditions(max_tokens=5, ignore_eos=True),
    )

    assert (ended.token_ids, ended.end.finish_reason) == ((END,), FinishReason.STOP)
    assert ignoring.token_ids == (END,) * 5


@pytest.fixture
async def scarce() -> AsyncIterator[LocalCluster]:
    """One decode worker with less memory than the context of 8,192 tokens."""
    small = replace(ENGINE, max_running=2, max_checkpoints=2, cache_bytes=4 << 20)
    async with local_cluster(checkpoint_dir(), decode_engine=small) as cluster:
        yield cluster


async def test_an_answer_is_limited_to_a_workers_memory(scarce: LocalCluster) -> None:
    pool = scarce.decode[0].status().load
    held = pool.pages.total * pool.page_tokens
    assert len(PROMPT) + 1024 < held < 8192

    asked = await scarce.client.generate(
        TokenInput(PROMPT * 70), stop=replace(UNENDING, max_tokens=8000), timeout_s=60
    )
    left_open = await scarce.client.generate(TokenInput(PROMPT), stop=UNENDING, timeout_s=60)

    assert asked.end.finish_reason is FinishReason.LENGTH
    assert len(asked.token_ids) == held - 70 * len(PROMPT) > 0
    assert left_open.end.finish_reason is FinishReason.LENGTH
    assert len(left_open.token_ids) == 1024
    with pytest.raises(ContextOverflow, match=f"holds {held} tokens"):
        await scarce.client.generate(TokenInput((7,) * held))
    assert is_idle(await wait_until_idle(scarce.client))


async def test_a_folder_without_a_tokenizer_serves_token_ids(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint_dir(), folder)
    (folder / "tokenizer.json").unlink()
    config = Config(engine=ENGINE, checkpoint=CheckpointConfig(skip_tokenizer=True))
    stop = StopConditions(max_tokens=9)

    async with local_cluster(checkpoint_dir()) as whole:
        expected = await whole.client.generate(TokenInput(PROMPT), stop=stop)
    async with local_cluster(folder, config) as cluster:
        answer = await cluster.client.generate(TokenInput(PROMPT), stop=stop)
        with pytest.raises(InvalidRequest, match="expected token ids, got text"):
            await cluster.client.generate(TextInput("Hello"))
        async with Client(cluster.client.target) as client:
            with pytest.raises(InvalidRequest, match="expected token ids, got chat messages"):
                await anext(client.session().turn("Hello"))

    assert answer.token_ids == expected.token_ids
    assert expected.text
    assert answer.text == ""
