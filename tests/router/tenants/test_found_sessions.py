"""Conversations are found again by their tenant only, and with their cache_salt only."""

from __future__ import annotations

from array import array

import pytest

from router.sessions.finding import SessionFinder
from router.sessions.history import History
from router.sessions.table import SessionTable
from router.tenants.tenant import Tenant
from segue.api.history import digests
from segue.api.prompt import Prompt
from segue.api.types import ChatInput, Message, SessionId, TurnId, TurnRequest

FIRST = (Message(role="user", content="Hello"),)
SECOND = (*FIRST, Message(role="assistant", content="Hi."), Message(role="user", content="More"))
ACME, BLUE = Tenant(name="acme"), Tenant(name="blue")
SHARING = [Tenant(name=name, shares_prefixes=True) for name in ("acme", "blue")]


class Found:
    def __init__(self) -> None:
        self.table = SessionTable(max_sessions=100, history_bytes=1 << 20)
        self._finder = SessionFinder(self.table)

    def turn(
        self, tenant: Tenant, messages: tuple[Message, ...], cache_salt: str = "", hint: str = ""
    ) -> SessionId:
        """The session in which a whole turn was run."""
        chat = ChatInput(messages=messages)
        request = TurnRequest(
            session_id=SessionId(""), turn_id=TurnId("t"), input=chat, cache_salt=cache_salt
        )
        salt = tenant.own(request).salt
        found = self._finder.find(chat, digests(chat), hint, scope=tenant.scope, salt=salt)
        tokens = Prompt(array("I", [1, 2]), salt=salt)
        self.table.histories[found] = History(chat=chat, digests=digests(chat), tokens=tokens)
        return found


@pytest.mark.parametrize("hint", ["", "claude"])
@pytest.mark.parametrize("tenants", [[ACME, BLUE], SHARING], ids=["apart", "sharing prefixes"])
def test_the_same_conversation_of_two_tenants_is_two_sessions(
    tenants: list[Tenant], hint: str
) -> None:
    found = Found()
    first = [found.turn(tenant, FIRST, hint=hint) for tenant in tenants]

    second = [found.turn(tenant, SECOND, hint=hint) for tenant in tenants]

    assert second == first
    for tenant, session_id in zip(tenants, first, strict=True):
        assert session_id.startswith(tenant.scope)
        assert tenant.shown(session_id).startswith(hint or "auto")


def test_a_conversation_is_found_with_its_salt_only() -> None:
    found = Found()
    first = [found.turn(ACME, FIRST, salt) for salt in ("", "a", "b")]

    second = [found.turn(ACME, SECOND, salt) for salt in ("", "a", "b")]

    assert second == first
    assert len(set(first)) == 3


def test_a_history_of_another_tenant_is_not_even_forked() -> None:
    found = Found()
    found.turn(ACME, SECOND)

    other = found.turn(BLUE, (*SECOND, Message(role="assistant", content="Yes."), *FIRST))

    # A fork would have its parent's record of messages.
    assert found.table.histories.find(digests(ChatInput(messages=SECOND)))[1] == ()
    assert other.startswith("blue/")


def test_many_tenants_with_one_system_message_do_not_hide_each_others_sessions() -> None:
    found = Found()
    own = found.turn(ACME, FIRST)
    for number in range(20):
        found.turn(Tenant(name=f"other-{number}"), FIRST)

    assert found.turn(ACME, SECOND) == own
