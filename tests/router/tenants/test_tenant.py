"""Names and salts of a tenant's sessions and turns."""

from __future__ import annotations

import pytest

from router.tenants.tenant import OPEN, Limits, Tenant
from segue.api.errors import InvalidRequest
from segue.api.prompt import salt_of
from segue.api.types import SessionId, TextInput, TurnId, TurnRequest

ACME = Tenant(name="acme")


def request(session_id: str = "s", cache_salt: str = "") -> TurnRequest:
    return TurnRequest(
        session_id=SessionId(session_id),
        turn_id=TurnId("t"),
        input=TextInput("Hello"),
        cache_salt=cache_salt,
    )


@pytest.mark.parametrize(
    ("tenant", "cache_salt", "salt"),
    [
        # As before there were tenants: the same pages, the same digests.
        (OPEN, "", b""),
        (OPEN, "x", salt_of("", "x")),
        (ACME, "", salt_of("acme", "")),
        (ACME, "x", salt_of("acme", "x")),
        (Tenant(name="acme", shares_prefixes=True), "", b""),
        (Tenant(name="acme", shares_prefixes=True), "x", salt_of("", "x")),
    ],
)
def test_pages_are_salted_by_tenant_and_cache_salt(
    tenant: Tenant, cache_salt: str, salt: bytes
) -> None:
    assert tenant.own(request(cache_salt=cache_salt)).salt == salt


def test_sessions_of_tenants_have_other_names_in_the_cluster() -> None:
    owned = [tenant.own(request()).session_id for tenant in (OPEN, ACME, Tenant(name="blue"))]

    assert owned == ["s", "acme/s", "blue/s"]
    assert ACME.shown(owned[1]) == "s"


def test_no_session_of_a_tenant_can_be_called_like_another_tenants() -> None:
    names = ["s", "blue/s", "acme/s", "/s", "blue//s"]
    tenants = [Tenant(name=name) for name in ("acme", "blue", "acme.blue")]

    owned = [tenant.owned(SessionId(name)) for tenant in tenants for name in names]

    assert len(set(owned)) == len(owned)
    for tenant in tenants:
        own = [tenant.owned(SessionId(name)) for name in names]
        others = set(owned) - set(own)
        assert all(one.startswith(tenant.scope) for one in own)
        assert not any(one.startswith(tenant.scope) for one in others)


def test_a_turn_without_a_session_gets_none() -> None:
    assert ACME.own(request("")).session_id == ""


def test_a_clients_name_has_the_same_limit_with_a_tenant() -> None:
    assert len(ACME.own(request("x" * 256)).session_id) == 261
    for tenant in (OPEN, ACME):
        with pytest.raises(InvalidRequest, match="at most 256 characters"):
            tenant.own(request("x" * 257))


@pytest.mark.parametrize("name", ["a/b", "-a", " a", "ä", "a" * 65, "a\n"])
def test_a_tenants_name_is_harmless_in_names_and_metrics(name: str) -> None:
    with pytest.raises(ValueError, match="a tenant's name"):
        Tenant(name=name)


def test_limits_are_not_negative() -> None:
    with pytest.raises(ValueError, match="max_turns must be >= 0"):
        Limits(max_turns=-1)
