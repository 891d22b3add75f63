"""API keys in HTTP headers, over a fake client that knows one key."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.api.errors import Overloaded
from segue.gateway.app import ROUTES
from tests.gateway.fake_client import fails, says
from tests.gateway.faked import Faked, faked

KEY = "sk-right"
CHAT = {"messages": [{"role": "user", "content": "Hello"}]}
Headers = list[tuple[bytes, bytes]]


def keyed(**settings: Any) -> Faked:
    client = faked(**settings)
    client.client.known_key = KEY
    return client


async def chat(client: Faked, headers: Headers) -> httpx2.Response:
    return await client.http.post("/v1/chat/completions", json=CHAT, headers=headers)


BEARER = b"Bearer " + KEY.encode()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"authorization", BEARER)], 200),
        ([(b"authorization", b"bearer   sk-right ")], 200),
        ([(b"x-api-key", KEY.encode())], 200),
        # As Claude Code sends both.
        ([(b"authorization", BEARER), (b"x-api-key", b"other")], 200),
        # A proxy's own.
        ([(b"authorization", b"Basic dTpw"), (b"x-api-key", KEY.encode())], 200),
        # Twice the same is one key.
        ([(b"authorization", BEARER), (b"authorization", BEARER)], 200),
        ([], 401),
        ([(b"authorization", b"")], 401),
        ([(b"authorization", b"Bearer")], 401),
        ([(b"authorization", b"Bearer ")], 401),
        ([(b"authorization", KEY.encode())], 401),
        ([(b"authorization", b"Basic " + KEY.encode())], 401),
        ([(b"authorization", BEARER), (b"authorization", b"Bearer other")], 401),
        ([(b"authorization", b"Bearer sk-right, Bearer sk-right")], 401),
        ([(b"authorization", b"Bearer sk-right sk-right")], 401),
        ([(b"x-api-key", KEY.encode()), (b"x-api-key", b"other")], 401),
        ([(b"authorization", "Bearer ключ".encode())], 401),
        ([(b"authorization", b"Bearer \xff\xfe")], 401),
        ([(b"authorization", b"Bearer " + b"x" * 50_000)], 401),
        ([(b"x-api-key", b"x" * 50_000)], 401),
    ],
)
async def test_where_a_key_may_be(headers: Headers, status: int) -> None:
    response = await chat(keyed(), headers)

    assert response.status_code == status
    if status == 401:
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error"]["code"] == "invalid_api_key"


FUZZED = keyed()


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"authorization", b"x-api-key", b"Authorization"]),
            st.one_of(
                st.sampled_from([b"Bearer ", b"bearer sk-right", b"sk-right", b"Bearer a", b"\t"]),
                st.binary(max_size=300).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b"")),
                st.binary(max_size=30).map(lambda b: b"Bearer " + b.replace(b"\n", b"")),
            ),
        ),
        max_size=4,
    )
)
async def test_whatever_the_headers_are_the_answer_is_200_or_401(headers: Headers) -> None:
    response = await chat(FUZZED, headers)

    assert response.status_code in (200, 401)
    if response.status_code == 200:
        assert any(KEY.encode() in value for _, value in headers)


async def test_an_error_has_the_form_of_its_api() -> None:
    client = keyed()

    openai = await client.post("/v1/chat/completions", CHAT)
    anthropic = await client.post("/v1/messages", {**CHAT, "model": "demo", "max_tokens": 1})

    assert openai.json()["error"]["type"] == "authentication_error"
    assert anthropic.json()["type"] == "error"
    assert anthropic.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_only_probes_metrics_and_the_empty_page_are_open(route: Any) -> None:
    response = await keyed().http.request(
        route.method, route.path.replace("{name:path}", "demo"), json={}
    )

    is_open = route.path in ("/health", "/ready", "/metrics", "/ui")
    assert (response.status_code == 200) if is_open else (response.status_code == 401)


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
async def test_the_description_is_open(path: str) -> None:
    assert (await keyed().http.get(path)).status_code == 200


async def test_a_body_is_not_read_without_a_key() -> None:
    response = await keyed(max_body_bytes=10).http.post("/v1/completions", content=b"x" * 1_000)

    assert response.status_code == 401


async def test_the_key_is_passed_on_with_the_turn() -> None:
    client = keyed()

    await chat(client, [(b"authorization", BEARER)])

    assert client.client.asked[0].api_key == KEY


async def test_an_open_router_gets_no_key_that_it_could_not_read() -> None:
    client = faked()

    response = await chat(client, [(b"authorization", "Bearer ключ".encode())])

    assert response.status_code == 200
    assert client.client.asked[0].api_key is None


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
async def test_priority_and_cache_salt_are_passed_on(path: str) -> None:
    body = {"messages": CHAT["messages"], "prompt": "Hello", "input": "Hello"}
    names = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}
    name = names.get(path, "input")
    client = faked()

    plain = await client.post(path, {name: body[name]})
    salted = await client.post(path, {name: body[name], "priority": -3, "cache_salt": "s"})

    assert (plain.status_code, salted.status_code) == (200, 200)
    asked = [(one.priority, one.cache_salt) for one in client.client.asked]
    assert asked == [(0, ""), (-3, "s")]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_full_router_is_a_429_with_the_time_to_retry(stream: bool) -> None:
    client = faked(fails(Overloaded.after("full", retry_after_s=2.2)))

    response = await client.post("/v1/chat/completions", {**CHAT, "stream": stream})

    assert (response.status_code, response.headers["retry-after"]) == (429, "3")


async def test_a_stream_that_waits_for_a_place_is_refused_with_a_status() -> None:
    """Pings would start it with a 200."""
    client = faked(fails(Overloaded.after("full", retry_after_s=1.0), wait_s=0.1), ping_s=0.01)

    response = await client.post("/v1/chat/completions", {**CHAT, "stream": True})

    assert response.status_code == 429


async def test_a_stream_pings_once_its_turn_has_started() -> None:
    client = faked(says("Hello", wait_s=0.1), ping_s=0.01)

    response = await client.post("/v1/chat/completions", {**CHAT, "stream": True})

    assert response.status_code == 200
    assert response.text.count(": ") > 3


async def test_a_stored_response_belongs_to_a_key_in_either_header() -> None:
    client = faked()
    body = {"input": "Hello"}
    stored = (await client.http.post("/v1/responses", json=body, headers={"x-api-key": "a"})).json()
    path = f"/v1/responses/{stored['id']}"

    async def status(headers: dict[str, str]) -> int:
        return (await client.http.get(path, headers=headers)).status_code

    assert await status({"x-api-key": "b"}) == 404
    assert await status({}) == 404
    assert await status({"authorization": "Bearer a"}) == 200
    assert await status({"x-api-key": "a"}) == 200
