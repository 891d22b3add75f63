"""What every request passes: ids, hang-ups, bodies that are no bodies, metrics."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from segue.api.errors import TransferFailed
from segue.gateway.http.door import Door
from segue.gateway.metrics import GatewayMetrics
from segue.gateway.openai.chat_request import ChatRequest
from tests.gateway.fake_client import endless, fails
from tests.gateway.faked import Faked, faked

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.mark.parametrize(
    ("given", "is_taken"),
    [("abc-1.2:3_4", True), ("", False), ("a b", False), ("é", False), ("x" * 129, False)],
)
async def test_a_sane_request_id_is_the_clients(given: str, is_taken: bool) -> None:
    client = faked()
    response = await client.http.post(CHAT, json=BODY, headers=[(b"X-Request-Id", given.encode())])
    request_id = response.headers["x-request-id"]

    assert (request_id == given) is is_taken
    assert response.json()["id"] == f"chatcmpl-{request_id}"
    assert client.client.asked[0].turn_id.startswith(request_id)


async def test_a_request_id_that_comes_twice_names_two_turns() -> None:
    client = faked()
    for _ in range(2):
        await client.post(CHAT, BODY, **{"X-Request-Id": "same"})

    assert len({asked.turn_id for asked in client.client.asked}) == 2


async def test_the_request_id_stands_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    from segue.process.telemetry import _turn

    seen: list[str] = []
    with caplog.at_level("INFO", logger="segue.gateway.http.door"):
        caplog.handler.addFilter(lambda record: not seen.append(_turn.get()))  # type: ignore[func-returns-value]  # a filter's way to look
        await faked().post(CHAT, BODY, **{"X-Request-Id": "mine"})

    (record,) = [one for one in caplog.records if one.getMessage() == "answered"]
    assert (record.__dict__["route"], record.__dict__["status"]) == (CHAT, 200)
    assert seen == ["mine"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "EOF while parsing"),
        (b"{", "EOF while parsing"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"\xff\xfe", "must be a JSON object in UTF-8"),
        (b'{"messages": "\xff"}', "UTF-8"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "hex escape"),
        (b'{"temperature": NaN, "messages": [{}]}', "finite"),
        (b'{"temperature": 1e999, "messages": [{}]}', "finite"),
        (b'{"top_k": 1e3, "messages": [{}]}', "integer"),
        (b'{"seed": 1' + b"0" * 5000 + b', "messages": [{}]}', "number"),
        (b"[" * 50_000, "recursion limit"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "recursion limit"),
    ],
    ids=range(13),
)
async def test_a_body_that_is_no_request_is_the_clients_error(content: bytes, says: str) -> None:
    response = await faked().http.post(CHAT, content=content)

    assert response.status_code == 400, response.text
    assert says in response.json()["error"]["message"]


async def test_a_body_over_the_limit_is_not_read_to_its_end() -> None:
    num_sent = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal num_sent
        while True:
            num_sent += 1
            yield b"x" * 10_000

    response = await faked().http.post(CHAT, content=pieces())

    assert response.status_code == 413
    assert "at most 100000" in response.json()["error"]["message"]
    assert num_sent <= 12


@pytest.mark.parametrize(("num_messages", "is_here"), [(100, True), (10_000, False)])
async def test_a_large_body_is_converted_beside_other_requests(
    monkeypatch: pytest.MonkeyPatch, num_messages: int, is_here: bool
) -> None:
    threads: list[object] = []
    wanted = ChatRequest.wanted

    def converting(*given: Any) -> Any:
        threads.append(threading.current_thread())
        return wanted(*given)

    monkeypatch.setattr(ChatRequest, "wanted", converting)
    body = {"messages": BODY["messages"] * num_messages}

    response = await faked(max_body_bytes=1 << 20).http.post(CHAT, json=body)

    assert response.status_code == 200
    assert [thread is threading.current_thread() for thread in threads] == [is_here]


async def test_a_compressed_body_is_refused_as_such() -> None:
    content = gzip.compress(json.dumps(BODY).encode())
    response = await faked().http.post(CHAT, content=content, headers={"Content-Encoding": "gzip"})

    assert response.status_code == 415
    assert "without content-encoding, got 'gzip'" in response.json()["error"]["message"]
    plain = await faked().http.post(CHAT, json=BODY, headers={"Content-Encoding": "identity"})
    assert plain.status_code == 200


async def hang_up(
    client: Faked, request: tuple[str, str, bytes], is_late: Callable[[list[Any]], bool]
) -> None:
    """Sends a request (method, path and body) as a server would, and hangs up once `is_late` of the
    messages of its answer."""
    app: Any = client.http._transport.app  # type: ignore[attr-defined]  # called as a server would
    method, path, body = request
    has_hung_up = asyncio.Event()
    sent: list[Any] = []
    waiting = [{"type": "http.request", "body": body}]

    async def receive() -> Any:
        if waiting:
            return waiting.pop()
        await has_hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
    }
    async with asyncio.timeout(5):
        serving = asyncio.create_task(app(scope, receive, send))
        while not is_late(sent):
            await asyncio.sleep(0.001)
        has_hung_up.set()
        await serving

    assert value(client.metrics, "requests_total", route=path, status="499") == 1
    assert value(client.metrics, "requests_in_flight") == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_leaves_its_turn(stream: bool) -> None:
    client = faked(endless())
    body = json.dumps({**BODY, "stream": stream}).encode()
    await hang_up(
        client,
        ("POST", CHAT, body),
        lambda sent: bool(client.client.asked) and (not stream or len(sent) >= 3),
    )

    assert client.client.num_left == 1


async def test_a_viewer_of_the_status_page_that_hangs_up_leaves_its_place() -> None:
    client = faked()
    await hang_up(client, ("GET", "/ui/events", b""), lambda sent: len(sent) >= 2)

    assert client.feed.num_viewers == 0


async def test_requests_are_counted_by_route_and_status() -> None:
    client = faked()
    await client.post(CHAT, BODY)
    await client.post(CHAT, {})
    await client.http.get("/anything/else")
    await client.http.get("/v1/models/demo")
    failing = faked(fails(TransferFailed("lost"), "a"))
    await failing.post(CHAT, {**BODY, "stream": True})

    assert value(client.metrics, "requests_total", route=CHAT, status="200") == 1
    assert value(client.metrics, "requests_total", route=CHAT, status="400") == 1
    assert value(client.metrics, "requests_total", route="other", status="404") == 1
    assert value(client.metrics, "requests_total", route="/v1/models/{name:path}", status="200")
    assert value(client.metrics, "time_to_first_token_seconds_count") == 1
    assert value(failing.metrics, "requests_total", route=CHAT, status="503") == 1


async def test_other_protocols_pass() -> None:
    passed: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["type"])

    await Door(app, GatewayMetrics())({"type": "lifespan"}, None, None)  # type: ignore[arg-type]  # not called

    assert passed == ["lifespan"]


def value(metrics: GatewayMetrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"segue_http_{name}", labels) or 0.0


async def test_ids_are_made_of_hex_digits() -> None:
    response = await faked().http.get("/health")

    assert re.fullmatch("[0-9a-f]{24}", response.headers["x-request-id"])
