"""Which web pages may use a gateway without an API key."""

from __future__ import annotations

import pytest

from segue.gateway.app import ROUTES
from segue.gateway.http.origin import is_foreign
from segue.gateway.http.routes import Route
from tests.gateway.faked import faked

CHANGING = [route for route in ROUTES if route.method in ("POST", "DELETE")]
EVIL = {"Origin": "http://evil.example", "Content-Type": "text/plain"}


@pytest.mark.parametrize(
    ("origin", "host", "is_local", "foreign"),
    [
        # SDKs and curl send none.
        ("", "127.0.0.1:8000", True, False),
        ("", "gateway:8000", False, False),
        ("http://evil.example", "127.0.0.1:8000", True, True),
        ("https://evil.example", "localhost:8000", True, True),
        ("HTTPS://evil.example", "localhost:8000", True, True),
        ("http://evil.example:8000", "127.0.0.1:8000", False, True),
        ("null", "127.0.0.1:8000", True, True),
        ("null", "null", False, True),
        # Pages of this machine.
        ("http://localhost:3000", "127.0.0.1:8000", True, False),
        ("http://LOCALHOST", "127.0.0.1:8000", True, False),
        ("http://127.8.8.8:3000", "127.0.0.1:8000", True, False),
        ("https://[::1]:3000", "127.0.0.1:8000", True, False),
        ("http://localhost:3000", "gateway:8000", False, False),
        ("http://localhost.evil.example", "127.0.0.1:8000", True, True),
        ("http://127.0.0.1.evil.example", "127.0.0.1:8000", True, True),
        ("http://128.0.0.1", "127.0.0.1:8000", True, True),
        # Pages of the gateway's own address.
        ("http://gateway:8000", "gateway:8000", False, False),
        ("http://Gateway", "gateway:80", False, False),
        ("https://gateway", "gateway", False, False),
        ("https://gateway:443", "gateway", False, False),
        ("http://10.0.0.1:8000", "10.0.0.1:8000", False, False),
        ("http://gateway:3000", "gateway:8000", False, True),
        ("http://gateway", "gateway:8000", False, True),
        ("http://other:8000", "gateway:8000", False, True),
        ("http://gateway:8000", "", False, True),
        # A page whose name resolves to 127.0.0.1 when it asks.
        ("http://evil.example:8000", "evil.example:8000", True, True),
        # What a user has installed.
        ("chrome-extension://abcdef", "127.0.0.1:8000", True, False),
        ("moz-extension://abcdef", "127.0.0.1:8000", True, False),
        ("vscode-webview://abcdef", "127.0.0.1:8000", True, False),
        ("app://obsidian.md", "127.0.0.1:8000", True, False),
        ("tauri://localhost", "127.0.0.1:8000", True, False),
        # Not what a browser sends.
        ("http://", "127.0.0.1:8000", True, True),
        ("http:", "127.0.0.1:8000", False, True),
        ("http://[", "127.0.0.1:8000", True, True),
        ("http://gateway:x", "gateway:x", False, True),
        ("http://localhost http://evil.example", "127.0.0.1:8000", True, True),
        ("http://localhost:3000, http://evil.example", "127.0.0.1:8000", True, True),
    ],
)
def test_a_page_is_foreign_by_its_origin(
    origin: str, host: str, is_local: bool, foreign: bool
) -> None:
    assert is_foreign(origin, host, is_local=is_local) is foreign


@pytest.mark.parametrize("route", CHANGING, ids=[f"{one.method} {one.path}" for one in CHANGING])
async def test_a_foreign_page_changes_nothing_without_a_key(route: Route) -> None:
    client = faked()
    response = await client.http.request(route.method, route.path, headers=EVIL)
    error = response.json()["error"]

    assert response.status_code == 403
    assert "http://evil.example" in error["message"]
    if route.path.startswith("/v1/messages"):
        assert error["type"] == "permission_error"


async def test_a_page_may_read_and_with_a_key_do_all() -> None:
    chat = {"messages": [{"role": "user", "content": "Hello"}]}
    client = faked()

    assert (await client.http.get("/v1/models", headers=EVIL)).status_code == 200
    for headers in ({"authorization": "Bearer a"}, {"x-api-key": "a"}):
        response = await client.post("/v1/chat/completions", chat, **EVIL, **headers)
        assert response.status_code == 200


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 403), ("0.0.0.0", 200)])
async def test_a_page_of_the_gateways_own_address_may_use_it_unless_that_is_loopback(
    host: str, status: int
) -> None:
    client = faked(host=host)
    headers = {"Origin": "http://gateway"}
    response = await client.post("/tokenize", {"prompt": "a"}, **headers)

    assert response.status_code == status
