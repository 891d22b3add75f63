"""Log-probabilities of prompts over a fake client: echoed, and in vLLM's form."""

from __future__ import annotations

import math
from array import array
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from segue.api.turn import PromptLogprobs, TurnEvent
from segue.api.types import Detokenized
from segue.gateway.served import ServedModelCache
from tests.gateway.fake_client import MODEL, FakeClient, delta, ended, says, started
from tests.gateway.faked import faked

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
WHO = [{"role": "user", "content": "Oh"}]
SCORED = PromptLogprobs(
    token_ids=array("I", [97, 195, 169]),
    logprobs=array("f", [-0.5, -math.inf]),
    ranks=array("I", [2, 90]),
    num_top=2,
    top_ids=array("I", [98, 195, 99, 100]),
    top_logprobs=array("f", [-0.25, -0.5, -1.0, -1.5]),
)
"""Of "aé"."""
LEGACY = {
    "tokens": ["a", "bytes:\\xc3", "bytes:\\xa9"],
    "token_logprobs": [None, -0.5, -9999.0],
    "top_logprobs": [None, {"b": -0.25}, {"c": -1.0}],
    "text_offset": [0, 1, 2],
}
VLLM = [
    None,
    {
        "195": {"logprob": -0.5, "rank": 2, "decoded_token": "\ufffd"},
        "98": {"logprob": -0.25, "rank": 1, "decoded_token": "b"},
    },
    {
        "169": {"logprob": -9999.0, "rank": 90, "decoded_token": "\ufffd"},
        "99": {"logprob": -1.0, "rank": 1, "decoded_token": "c"},
    },
]


def scores(*texts: str) -> Callable[[int], AsyncGenerator[TurnEvent, None]]:
    """Answers with these texts, and scores its first prompt."""

    async def answer(number: int) -> AsyncGenerator[TurnEvent, None]:
        yield started(prompt_tokens=3)
        if not number:
            yield SCORED
        for text in texts:
            yield delta(text, logprobs=True)
        yield ended(prompt_tokens=3, drafted_tokens=1, stop_match="c")

    return answer


async def test_an_echo_has_the_log_probabilities_of_prompt_and_answer() -> None:
    asked = {"prompt": "aé", "echo": True, "logprobs": 1}
    client = faked(scores("b", "c"))
    (choice,) = (await client.post(COMPLETIONS, asked)).json()["choices"]

    assert choice["text"] == "aébc"
    assert choice["logprobs"] == {
        "tokens": [*LEGACY["tokens"], "b", "c"],
        "token_logprobs": [*LEGACY["token_logprobs"], -0.5, -0.5],
        "top_logprobs": [*LEGACY["top_logprobs"], {"b": -0.5}, {"c": -0.5}],
        "text_offset": [*LEGACY["text_offset"], 2, 3],
    }
    assert client.client.asked[0].sampling.prompt_logprobs == 1


async def test_a_prompt_alone_is_scored_and_nothing_is_answered() -> None:
    asked = {"prompt": [97, 195, 169], "echo": True, "logprobs": 1, "max_tokens": 0}
    client = faked(scores("b"))
    answer = (await client.post(COMPLETIONS, asked)).json()
    (choice,) = answer["choices"]

    assert (choice["text"], choice["finish_reason"], choice["logprobs"]) == ("aé", "length", LEGACY)
    assert choice["stop_reason"] is None
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (3, 0)
    assert answer["usage"]["completion_tokens_details"]["rejected_prediction_tokens"] == 0
    assert client.client.asked[0].stop.max_tokens == 1


@pytest.mark.parametrize("max_tokens", [0, 2])
async def test_a_streamed_echo_starts_with_the_prompts_part(max_tokens: int) -> None:
    asked = {"prompt": "aé", "echo": True, "logprobs": 1, "stream": True, "max_tokens": max_tokens}
    *chunks, done = await faked(scores("b", "c")).events(COMPLETIONS, asked)
    choices = [chunk["choices"][0] for chunk in chunks]
    parts = [choice["logprobs"] for choice in choices if choice["logprobs"]]

    assert choices[0]["text"].startswith("aé")
    joined = {name: [one for part in parts for one in part[name]] for name in LEGACY}
    assert {name: joined[name][:3] for name in LEGACY} == LEGACY
    assert joined["tokens"][3:] == (["b", "c"] if max_tokens else [])
    assert "".join(choice["text"] for choice in choices) == ("aébc" if max_tokens else "aé")
    assert (choices[-1]["finish_reason"], done) == (
        "length" if not max_tokens else "stop",
        "[DONE]",
    )


async def test_answers_to_one_prompt_share_its_scores() -> None:
    """It is computed once: the other turns do not ask for them."""
    asked = {"prompt": ["aé", "aé"], "n": 2, "echo": True, "logprobs": 1, "max_tokens": 0}
    client = faked(scores("b"))
    choices = (await client.post(COMPLETIONS, asked)).json()["choices"]

    assert [choice["logprobs"] for choice in choices] == [LEGACY] * 4
    numbers = [one.sampling.prompt_logprobs for one in client.client.asked]
    assert numbers == [1, None, None, None]


async def test_vllms_form() -> None:
    completion = await faked(scores("b")).post(COMPLETIONS, {"prompt": "aé", "prompt_logprobs": 1})
    chat = await faked(scores("b")).post(CHAT, {"messages": WHO, "prompt_logprobs": 1})

    assert completion.json()["choices"][0]["prompt_logprobs"] == VLLM
    assert completion.json()["choices"][0]["text"] == "b"
    assert chat.json()["prompt_logprobs"] == VLLM


async def test_both_forms_have_the_numbers_that_they_ask_for() -> None:
    asked = {"prompt": "aé", "echo": True, "logprobs": 1, "prompt_logprobs": 0, "max_tokens": 0}
    client = faked(scores("b"))
    (choice,) = (await client.post(COMPLETIONS, asked)).json()["choices"]

    assert choice["logprobs"] == LEGACY
    assert [len(one or ()) for one in choice["prompt_logprobs"]] == [0, 1, 1]
    assert client.client.asked[0].sampling.prompt_logprobs == 1


@pytest.mark.parametrize(
    "fields", [{"echo": True}, {"logprobs": 2}, {"echo": False, "logprobs": 0, "stream": True}]
)
async def test_prompts_are_not_scored_unasked(fields: Any) -> None:
    client = faked(says("b", logprobs=True))
    response = await client.post(COMPLETIONS, {"prompt": "aé", **fields})

    assert response.status_code == 200
    assert client.client.asked[0].sampling.prompt_logprobs is None


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"prompt_logprobs": 0, "stream": True}, "prompt_logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
async def test_what_cannot_be_served_is_refused_by_name(path: str, fields: Any, param: str) -> None:
    response = await faked().post(path, {"prompt": "a", "messages": WHO, **fields})

    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_the_texts_of_many_tokens_are_asked_for_in_parts() -> None:
    """The router takes no more ids at once than the context has."""
    sizes: list[int] = []

    class Counting(FakeClient):
        async def detokenize(self, token_ids: Sequence[int]) -> Detokenized:
            sizes.append(len(token_ids))
            return await super().detokenize(token_ids)

    client = Counting(says("a"), model_info=replace(MODEL, max_context=8))
    texts = await ServedModelCache(client).token_bytes(range(20))

    assert texts == {token_id: bytes([token_id]) for token_id in range(20)}
    assert sizes == [8, 8, 4]
