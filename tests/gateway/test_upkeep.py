"""Routes for operators, models, and tokens without an answer, over a fake client."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from segue.api.errors import Unavailable
from segue.gateway.app import ROUTES
from segue.gateway.served import ServedModelCache
from tests.gateway.fake_client import MODEL, FakeClient, says
from tests.gateway.faked import faked


async def test_the_served_model_is_listed_with_its_context() -> None:
    listed = (await faked().http.get("/v1/models")).json()
    (model,) = listed["data"]

    assert (model["id"], model["object"], model["max_model_len"]) == ("demo", "model", 8192)
    assert (await faked().http.get("/v1/models/demo")).json() == model
    assert (await faked().http.get("/v1/models/org/other")).status_code == 404


async def test_a_name_with_a_slash_is_a_name() -> None:
    client = faked()
    client.client.model_info = replace(MODEL, name="org/name")

    assert (await client.http.get("/v1/models/org/name")).json()["id"] == "org/name"


async def test_the_process_is_well_while_the_cluster_is_not_ready() -> None:
    client = faked()
    assert (await client.http.get("/ready")).status_code == 200
    client.client.is_ready = False

    assert (await client.http.get("/ready")).status_code == 503
    assert (await client.http.get("/health")).status_code == 200


async def test_without_a_router_requests_are_refused_for_now() -> None:
    client = faked()
    client.client.model_error = Unavailable("router away")

    response = await client.http.get("/v1/models")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")


async def test_metrics_are_prometheus_own() -> None:
    response = await faked().http.get("/metrics")
    names = {family.name for family in text_string_to_metric_families(response.text)}

    assert response.headers["content-type"].startswith("text/plain")
    assert "segue_http_requests_in_flight" in names


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"prompt": "Hi"}, [72, 105]),
        ({"messages": [{"role": "user", "content": "a"}] * 3}, [0, 1, 2]),
    ],
)
async def test_texts_and_chats_are_tokenised(body: Any, tokens: list[int]) -> None:
    answer = (await faked().post("/tokenize", {"model": "demo", **body})).json()

    assert (answer["tokens"], answer["count"]) == (tokens, len(tokens))
    assert (answer["max_model_len"], answer["token_strs"]) == (8192, None)


async def test_tokens_have_their_texts_if_they_are_asked_for() -> None:
    answer = (await faked().post("/tokenize", {"prompt": "é", "return_token_strs": True})).json()

    assert answer["token_strs"] == ["\ufffd", "\ufffd"]
    assert (await faked().post("/detokenize", {"tokens": answer["tokens"]})).json() == {
        "prompt": "é"
    }


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}),
        ("/tokenize", {"prompt": 5}),
        ("/detokenize", {}),
        ("/detokenize", {"tokens": ["a"]}),
    ],
)
async def test_what_cannot_be_tokenised_is_refused(path: str, body: Any) -> None:
    assert (await faked().post(path, body)).status_code == 400


async def test_the_description_has_every_route_and_field() -> None:
    described = (await faked().http.get("/openapi.json")).json()

    assert (await faked().http.get("/docs")).status_code == 200
    for route in ROUTES:
        operation = described["paths"][route.path.replace(":path", "")][route.method.lower()]
        assert operation["summary"], route.path
        if route.body is not None:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            assert schema["properties"].keys() == route.body.model_fields.keys()
            assert "$ref" not in str(schema)


async def test_the_model_is_asked_for_once_in_a_while() -> None:
    now = 0.0
    client = FakeClient(says())
    served = ServedModelCache(client, clock=lambda: now)
    assert (await served.info()).name == "demo"
    client.model_info = replace(MODEL, name="other", model_id="f")

    assert (await served.info()).name == "demo"
    now = 3.0
    assert (await served.info()).name == "other"
