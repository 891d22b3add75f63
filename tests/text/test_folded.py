"""Folding a session's messages turn by turn equals folding them at once."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from segue.api.types import Message
from segue.text.conversation import JsonObject, read_message
from segue.text.replay.fold import FoldedMessages, fold_instructions

ROLES = st.lists(
    st.sampled_from(("system", "developer", "user", "assistant", "tool")), min_size=1, max_size=9
)


class FirstOnly:
    """A template that accepts a system message only as the first message."""

    def accepts(self, role: str, is_first: bool) -> bool:
        return role == "system" and is_first

    def mark_answer(self, message: JsonObject) -> JsonObject:
        return {**message, "is_marked": message["role"] == "assistant"}


accepts_first = FirstOnly()


def named(roles: list[str]) -> tuple[Message, ...]:
    return tuple(
        Message(role=role, content=f"{number} {role}") for number, role in enumerate(roles)
    )


@given(ROLES, ROLES, st.integers(0, 9))
@example(["user", "system", "assistant"], ["assistant"], 1)
@example(["user", "assistant"], ["system", "user"], 2)
def test_an_earlier_turn_changes_nothing(earlier: list[str], new: list[str], num_same: int) -> None:
    before = FoldedMessages(named(earlier), accepts_first)
    num_same = min(num_same, len(earlier))
    messages = named(earlier[:num_same] + new)

    folded = FoldedMessages(messages, accepts_first, before.places, num_same)

    whole = [read_message(index, message) for index, message in enumerate(messages)]
    assert list(map(folded.__getitem__, range(len(folded)))) == fold_instructions(
        whole, accepts_first
    )
    same = [before[index] for index in range(folded.num_same)]
    assert same == [folded[index] for index in range(folded.num_same)]
