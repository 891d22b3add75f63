"""Requests that went wrong in any place: whatever a client sends, it is never a bug of ours."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from segue.gateway.app import ROUTES
from tests.cluster.waiting import is_idle, wait_until_idle
from tests.gateway.conftest import Live

pytestmark = pytest.mark.asyncio(loop_scope="session")

NUM_REQUESTS = 60
TOOL = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}
CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"at": "it"}'}}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
    {"role": "assistant", "content": "Hm", "reasoning": "x", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "seen"},
]
SAMPLING = {
    "model": "demo",
    "max_tokens": 2,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "seed": 7,
    "stream": False,
}
BODIES: dict[str, Any] = {
    "/v1/chat/completions": {
        **SAMPLING,
        "messages": CHAT,
        "tools": [{"type": "function", "function": TOOL}],
        "tool_choice": "auto",
        "n": 1,
        "stop": ["END"],
        "stop_token_ids": [3],
        "logit_bias": {"5": 1.5},
        "logprobs": True,
        "top_logprobs": 2,
        "reasoning_effort": "low",
        "chat_template_kwargs": {"enable_thinking": True},
        "stream_options": {"include_usage": True},
        "presence_penalty": 0.5,
        "min_p": 0.1,
        "prompt_logprobs": 1,
    },
    "/v1/completions": {**SAMPLING, "prompt": "Once", "echo": True, "logprobs": 1, "n": 1},
    "/v1/messages": {
        **SAMPLING,
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            {"role": "user", "content": "Hello"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "x", "signature": "s"},
                    {"type": "tool_use", "id": "c", "name": "look", "input": {"at": "it"}},
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "c", "content": "seen"}],
            },
        ],
        "tools": [{"name": "look", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto"},
        "thinking": {"type": "enabled", "budget_tokens": 5},
        "output_config": {"effort": "low"},
        "stop_sequences": ["END"],
    },
    "/v1/responses": {
        "model": "demo",
        "max_output_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "stream": False,
        "instructions": "Be brief.",
        "input": [
            {"role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
            {"role": "user", "content": "Hello"},
            {"type": "reasoning", "summary": [], "encrypted_content": "SG0u"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Hm"}]},
            {
                "type": "function_call",
                "call_id": "c",
                "namespace": "space",
                "name": "look",
                "arguments": '{"at": "it"}',
            },
            {"type": "function_call_output", "call_id": "c", "output": "seen"},
        ],
        "tools": [
            {"type": "namespace", "name": "space", "tools": [{"type": "function", **TOOL}]},
            {"type": "web_search"},
        ],
        "tool_choice": "auto",
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "text"}},
        "metadata": {"a": "b"},
    },
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "Hello"}]},
    "/tokenize": {"messages": CHAT[:2], "return_token_strs": True},
    "/detokenize": {"tokens": [5, 6, 7]},
}
STRANGE: list[Any] = [
    *(None, True, False, 0, -1, 1, 0.5, -0.0, 1e300, 2**31, 2**40, 2**63, 2**64, -(2**63), 10**30),
    *("", " ", "a", "\x00", "é👋🏽", "<|im_end|>", "</think>", "5", "x" * 5000, "\u202e"),
    *(
        [],
        [[]],
        [None],
        ["a"],
        [1],
        [-1],
        [2**40],
        {},
        {"": ""},
        {"type": "text"},
        {"a": {"b": [1]}},
    ),
    {"type": "image_url", "image_url": {"url": "x"}},
]


async def test_every_route_that_takes_a_body_is_tried() -> None:
    assert {route.path for route in ROUTES if route.body is not None} == BODIES.keys()


@pytest.mark.parametrize("path", BODIES)
async def test_no_request_is_our_bug(live: Live, path: str) -> None:
    rng = random.Random(path)
    statuses = set()
    for _ in range(NUM_REQUESTS):
        body = mutated(rng, BODIES[path])
        if path == "/v1/responses" and _is_long(body.get("max_output_tokens")):
            # It has no stop strings.
            body["max_output_tokens"] = 8
        response = await live.http.post(path, json=body)

        statuses.add(response.status_code)
        assert response.status_code in (200, 400, 404), (response.text, json.dumps(body)[:2000])
        if response.status_code != 200:
            assert response.json()["error"]["message"]

    assert {200, 400} <= statuses
    assert is_idle(await wait_until_idle(live.cluster.client))


def mutated(rng: random.Random, body: Any) -> Any:
    body = copy.deepcopy(body)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        holder, key = rng.choice(list(places(body)))
        if isinstance(holder, list) and rng.random() < 0.2:
            holder.insert(key, copy.deepcopy(rng.choice(STRANGE)))
        elif rng.random() < 0.15:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(rng.choice(STRANGE))
        if not body:
            break
    # An answer as long as the context takes seconds.
    if _is_long(body.get("max_tokens")):
        body["stop"] = body["stop_sequences"] = ["a", "e", "i", "o", "\n", "1"]
    return body


def _is_long(max_tokens: object) -> bool:
    return max_tokens is None or (type(max_tokens) in (int, float) and max_tokens > 8)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every member, at any depth."""
    if isinstance(value, dict):
        for key in value:
            yield value, key
            yield from places(value[key])
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield value, index
            yield from places(one)
