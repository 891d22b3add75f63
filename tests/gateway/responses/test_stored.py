"""Stored responses: continued by their id, read, deleted."""

from __future__ import annotations

import json
import threading
from typing import Any
from urllib.parse import quote

import pytest

from router.documents import DocumentStore
from segue.api.errors import Unavailable
from segue.gateway.openai.responses.request import ResponseRequest
from tests.gateway.fake_client import says
from tests.gateway.faked import Faked, faked
from tests.gateway.responses.streamed import BODY, CALL, LOOK, PATH, answered

ASK = {"role": "user", "content": "Hello"}


async def test_a_response_goes_on_after_an_earlier_one() -> None:
    client = faked(says("Hm.\n</think>\n\n", f"I look.\n\n{CALL}", starts_in_reasoning=True))
    first = await answered(client, input="Look!", tools=[LOOK], instructions="Be brief.")
    call_id = first["output"][-1]["call_id"]
    result = {"type": "function_call_output", "call_id": call_id, "output": "It is red."}
    second = await answered(client, input=[result], previous_response_id=first["id"])
    await answered(client, input="Why?", previous_response_id=second["id"])
    whole = [{"role": "user", "content": "Look!"}, *first["output"], result, *second["output"]]
    await answered(client, input=[*whole, {"role": "user", "content": "Why?"}])
    asked: list[Any] = [one.turn_input for one in client.client.asked]

    assert second["previous_response_id"] == first["id"]
    assert [message.role for message in asked[1].messages] == ["user", "assistant", "tool"]
    assert asked[2].messages == asked[3].messages


async def test_a_stored_response_is_its_owners_until_it_is_deleted() -> None:
    client = faked()
    answer = (await client.post(PATH, BODY, authorization="Bearer a")).json()
    path = f"{PATH}/{answer['id']}"

    async def call(method: str, key: str) -> tuple[int, Any]:
        response = await client.http.request(
            method, path, headers={"authorization": f"Bearer {key}"}
        )
        return response.status_code, response.json()

    assert await call("GET", "a") == (200, answer)
    assert (await call("GET", "b"))[0] == 404
    assert (await call("DELETE", "b"))[0] == 404
    assert await call("DELETE", "a") == (
        200,
        {"id": answer["id"], "object": "response", "deleted": True},
    )
    assert (await call("GET", "a"))[0] == 404


@pytest.mark.parametrize(("fields", "num_bytes"), [({"store": False}, 1 << 20), ({}, 100)])
async def test_a_response_that_is_not_stored_says_what_to_do(
    fields: dict[str, Any], num_bytes: int
) -> None:
    client = faked()
    client.client.kept = DocumentStore(num_bytes, 60.0)
    first = await answered(client, **fields)
    response = await client.post(PATH, {**BODY, "previous_response_id": first["id"]})
    error = response.json()["error"]

    assert response.status_code == 400
    assert (error["param"], error["code"]) == (
        *("previous_response_id", "previous_response_not_found"),
    )
    assert "may have expired or been deleted" in error["message"]
    assert "send the whole input" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_does_not_depend_on_being_stored(stream: bool) -> None:
    client = faked()

    async def fail(*args: object, **kwargs: object) -> bool:
        raise Unavailable("the router is gone")

    client.client.keep_document = fail  # type: ignore[method-assign]
    response = await client.post(PATH, {**BODY, "stream": stream})

    assert response.status_code == 200
    assert '"completed"' in response.text


@pytest.mark.parametrize("response_id", ["resp_", "x" * 300, "\n"])
async def test_an_id_that_no_response_has_is_a_404(response_id: str) -> None:
    response = await faked().http.get(f"{PATH}/{quote(response_id)}")

    assert response.status_code == 404


async def replace_document(client: Faked, answer: dict[str, Any], content: bytes) -> None:
    """As a client with the same key can by RPC."""
    ((group, _),) = client.client.kept._shelves[""]._documents
    await client.client.keep_document(group, answer["id"], content)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\xff", b"{", b"[" * 1000, b"null", b"[]", b"{}"),
        b'{"response": {"output": []}}',
        b'{"response": [], "input": []}',
        b'{"response": {}, "input": []}',
        b'{"response": {"output": {}}, "input": []}',
        b'{"response": {"output": [1]}, "input": []}',
        b'{"response": {"output": []}, "input": "Hello"}',
        b'{"response": {"output": []}, "input": [null]}',
    ],
)
async def test_a_document_that_no_gateway_wrote_is_no_response(content: bytes) -> None:
    client = faked()
    answer = await answered(client)
    await replace_document(client, answer, content)
    read = await client.http.get(f"{PATH}/{answer['id']}")
    continued = await client.post(PATH, {**BODY, "previous_response_id": answer["id"]})

    assert (read.status_code, continued.status_code) == (404, 400)
    assert "there is no stored response" in read.json()["error"]["message"]
    assert continued.json()["error"]["code"] == "previous_response_not_found"


async def test_a_conversation_larger_than_a_body_is_not_continued_and_still_read() -> None:
    client = faked(max_body_bytes=5_000)
    first = await answered(client, input="a" * 2_000)
    second = await answered(client, input="b" * 2_000, previous_response_id=first["id"])
    response = await client.post(PATH, {**BODY, "previous_response_id": second["id"]})
    error = response.json()["error"]
    read = await client.http.get(f"{PATH}/{second['id']}")

    assert (response.status_code, error["param"]) == (400, "previous_response_id")
    assert "at most 5000 bytes, got " in error["message"]
    assert "without previous_response_id" in error["message"]
    assert read.status_code == 200


async def test_skipped_items_are_not_stored() -> None:
    client = faked()
    skipped = {"type": "web_search_call", "id": "ws_1"}
    await answered(client, input=[skipped, ASK, skipped])
    ((document, _),) = client.client.kept._shelves[""]._documents.values()

    assert json.loads(document.content)["input"] == [ASK]


async def test_a_long_conversation_is_converted_beside_other_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[object] = []
    wanted = ResponseRequest.wanted

    def converting(*given: Any) -> Any:
        threads.append(threading.current_thread())
        return wanted(*given)

    client = faked(max_body_bytes=1 << 20)
    first = await answered(client, input=[ASK] * 10_000)
    monkeypatch.setattr(ResponseRequest, "wanted", converting)
    await answered(client, previous_response_id=first["id"])

    assert threads != [threading.current_thread()]
