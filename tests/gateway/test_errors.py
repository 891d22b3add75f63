"""What an error names: the field, what came, the methods of a path."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.faked import faked

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("top_p", 0),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("max_tokens", 0),
        ("priority", 2**40),
        ("stop[0]", ""),
        ("stop[2]", ["a", "b", "x" * 1025]),
        ("stop_token_ids[1]", [0, -1]),
    ],
)
async def test_an_error_names_the_field(field: str, value: Any) -> None:
    response = await faked().http.post(CHAT, json={**BODY, field.partition("[")[0]: value})

    assert response.status_code == 400
    assert response.json()["error"]["param"] == field


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"max_tokens": 0}, "max_tokens: expected at least 1, got 0"),
        ({"max_tokens": "0"}, "max_tokens: expected an integer, got a text, '0'"),
        ({"messages": []}, "messages: expected a list with 1 or more items, got an empty list"),
        ({"messages": ""}, "messages: expected a list, got an empty text"),
        ({"stop": ["a"] * 17}, "stop: expected a list with at most 16 items, got 17 items"),
        ({"stop": [""]}, "stop[0]: expected a text with 1 or more characters, got an empty text"),
        (
            {"stop": "x" * 1025},
            "stop[0]: expected a text with at most 1024 characters, got 1025 characters",
        ),
    ],
)
async def test_an_error_names_the_type_that_came_if_another_was_expected(
    fields: dict[str, Any], says: str
) -> None:
    response = await faked().http.post(CHAT, json={**BODY, **fields})

    assert response.json()["error"]["message"] == says


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/v1/chat/completions/", 404),
    ],
)
async def test_what_is_not_there_is_refused_in_the_apis_form(
    method: str, path: str, status: int
) -> None:
    response = await faked().http.request(method, path)

    assert (response.status_code, response.json()["error"]["type"]) == (
        status,
        "invalid_request_error",
    )


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CHAT, ["POST"]),
        ("DELETE", "/v1/models", ["GET"]),
        ("POST", "/v1/responses/resp_1", ["DELETE", "GET"]),
        ("POST", "/openapi.json", ["GET", "HEAD"]),
    ],
)
async def test_an_error_about_the_method_names_those_of_the_path(
    method: str, path: str, allowed: list[str]
) -> None:
    response = await faked().http.request(method, path)

    assert response.headers["allow"] == ", ".join(allowed)
    assert response.json()["error"]["message"] == (
        f"expected {' or '.join(allowed)} for '{path}', got {method}: see /docs"
    )
