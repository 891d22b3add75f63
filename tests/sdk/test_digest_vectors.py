"""Known digests of histories, which every other implementation must reproduce."""

from __future__ import annotations

from pathlib import Path

import pytest

from segue.api.history import digests
from segue.api.types import ChatInput, Message, ToolCall

PROTO = Path(__file__).parents[2] / "proto" / "segue" / "v1" / "session.proto"

PLAIN = ChatInput(
    messages=(Message(role="user", content="Hello"), Message(role="assistant", content="Hi."))
)
PLAIN_DIGESTS = (
    "56f9c6ede92cd195eee1459dcb28a27d6c6aa61ac18e8f0448d9fac6f10cd740",
    "fe773991e5dd8ab610ea9b921740121811f1b8ec46c1b169c388d8b30e6515ec",
)
# Every field that a message and a chat can have.
FULL = ChatInput(
    messages=(
        Message(role="system", content="Be brief."),
        Message(role="user", content_parts=("Grüße", "🙂")),
        Message(
            role="assistant",
            content="Wait.",
            reasoning="",
            tool_calls=(ToolCall(call_id="7", name="f", arguments='{"a": 1}'),),
        ),
        Message(role="tool", content="rain", tool_call_id="7", name="f"),
    ),
    tools=('{"name": "f"}',),
    enable_thinking=False,
    chat_template_kwargs='{"a": 1}',
)
FULL_DIGESTS = (
    "13c1c452288c394cdf6d53946915798f6a5116dd6dc8147cedac15073483a998",
    "861b0211584661baac6c575174d7650487e6218a22b0780b4992c247abbc8530",
    "db3e62bb69ae5cfca00a70afe0ec87dd4b83d8f49b0a64c0da80feff59710057",
    "4d40cdda325089b366d406f236f1f1ca51bc3bd38a2106cc76f92d760cec5c17",
)


@pytest.mark.parametrize(("chat", "expected"), [(PLAIN, PLAIN_DIGESTS), (FULL, FULL_DIGESTS)])
def test_digests_have_not_changed(chat: ChatInput, expected: tuple[str, ...]) -> None:
    assert tuple(digest.hex() for digest in digests(chat)) == expected


def test_the_contract_shows_digests_of_the_plain_chat() -> None:
    specified = PROTO.read_text()

    for expected in PLAIN_DIGESTS:
        assert expected in specified
