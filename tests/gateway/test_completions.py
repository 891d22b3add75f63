"""Completions over a fake client: texts and token ids in, their continuations out."""

from __future__ import annotations

from typing import Any

import pytest

from segue.api.types import TextInput, TokenInput, TurnInput
from segue.gateway.openai.completion_request import CompletionRequest
from tests.gateway.fake_client import says
from tests.gateway.faked import faked

PATH = "/v1/completions"


async def test_a_text_is_continued() -> None:
    client = faked(says("Hel", "lo", cached_tokens=3))
    answer = (await client.post(PATH, {"model": "demo", "prompt": "Oh"})).json()

    assert answer["id"].startswith("cmpl-")
    assert (answer["object"], answer["choices"][0]["text"]) == ("text_completion", "Hello")
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 3
    assert client.client.asked[0].stop.max_tokens == 16


async def test_markup_in_a_text_is_text() -> None:
    answer = (await faked(says("a</think>b<tool_call>")).post(PATH, {"prompt": "Oh"})).json()

    assert answer["choices"][0]["text"] == "a</think>b<tool_call>"


@pytest.mark.parametrize(
    ("prompt", "inputs"),
    [
        ("a", [TextInput("a")]),
        ("", [TextInput("")]),
        ([1, 2], [TokenInput((1, 2))]),
        (["a", "b"], [TextInput("a"), TextInput("b")]),
        ([[1], [2, 3]], [TokenInput((1,)), TokenInput((2, 3))]),
    ],
)
async def test_every_form_of_a_prompt(prompt: Any, inputs: list[TurnInput]) -> None:
    client = faked()
    await client.post(PATH, {"prompt": prompt})

    assert [asked.turn_input for asked in client.client.asked] == inputs


async def test_answers_of_several_prompts_are_in_their_order() -> None:
    asked = {"prompt": ["a", "b"], "n": 2, "echo": True}
    answer = (await faked(says("!")).post(PATH, asked)).json()

    texts = [choice["text"] for choice in answer["choices"]]
    assert texts == ["a!", "a!", "b!", "b!"]
    assert answer["usage"]["prompt_tokens"] == 14
    assert answer["usage"]["completion_tokens"] == 12


async def test_an_echo_of_token_ids_is_their_text_and_comes_first() -> None:
    asked = {"prompt": [72, 105], "echo": True, "stream": True}
    *chunks, done = await faked(says("!", "?")).events(PATH, asked)

    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Hi!", "?", ""]
    assert (chunks[-1]["choices"][0]["finish_reason"], done) == ("stop", "[DONE]")


async def test_logprobs_have_their_old_form() -> None:
    client = faked(says("aé", logprobs=True))
    answer = (await client.post(PATH, {"prompt": "x", "logprobs": 1})).json()

    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["a", "bytes:\\xc3", "bytes:\\xa9"],
        "token_logprobs": [-0.5] * 3,
        "top_logprobs": [{"a": -0.5}, {"bytes:\\xc3": -0.5}, {"bytes:\\xa9": -0.5}],
        "text_offset": [0, 1, 2],
    }


async def test_offsets_of_a_stream_go_on() -> None:
    # A space at the end waits for what follows, but its token has come.
    client = faked(says("a ", "c", logprobs=True))
    chunks = await client.events(PATH, {"prompt": "x", "logprobs": 0, "stream": True})
    offsets = [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks[:2]]

    assert offsets == [[0, 1], [2]]


async def test_token_ids_come_back_if_they_are_asked_for() -> None:
    asked = {"prompt": "ab", "return_token_ids": True}
    (choice,) = (await faked(says("c")).post(PATH, asked)).json()["choices"]

    assert (choice["prompt_token_ids"], choice["token_ids"]) == ([97, 98], [99])


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": [[1], []]}, "prompt[1]"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a"] * 5}, "n"),
        ({"suffix": "b"}, "suffix"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
    ],
)
async def test_what_cannot_be_served_is_refused_by_name(change: Any, param: str) -> None:
    response = await faked().post(PATH, {"prompt": "a", **change})

    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_nulls_and_neutral_values_are_accepted() -> None:
    nulls = dict.fromkeys(CompletionRequest.model_fields.keys() - {"prompt"})
    neutral = {"suffix": "", "response_format": {"type": "text"}, "best_of": 1}

    for fields in (nulls, neutral):
        assert (await faked().post(PATH, {"prompt": "a", **fields})).status_code == 200
