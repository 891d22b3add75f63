"""Closed sets of names are enums on the wire, and every member survives it."""

from __future__ import annotations

import pytest

from router.placement.estimate import Mode
from router.placement.side import Exclusion
from segue.api.cluster.explanation import WeighedCandidate
from segue.api.errors import InvalidRequest
from segue.api.types import ChatInput, Message, WorkerId
from segue.text.conversation import ROLES
from segue.v1 import session_pb2 as pb
from segue.wire.convert.explanation import candidate_from_wire, candidate_to_wire
from segue.wire.convert.request import chat_from_wire, chat_to_wire


def test_every_mode_and_exclusion_of_the_router_survives_the_wire() -> None:
    worker = WorkerId("w")
    for mode in Mode:
        for excluded in Exclusion:
            name = "" if excluded is Exclusion.NONE else excluded.name.lower()
            one = WeighedCandidate(
                mode=mode.value, prefill_worker=worker, decode_worker=worker, excluded=name
            )
            wire = candidate_to_wire(one)

            assert candidate_from_wire(wire) == one
            # The numbers are those of the router, the least serious first.
            assert wire.excluded == excluded


def test_every_role_and_no_other_value_survives_the_wire() -> None:
    for role in ROLES:
        chat = ChatInput(messages=(Message(role=role, content="a"),))
        assert chat_from_wire(chat_to_wire(chat)) == chat
    wizard = ChatInput(messages=(Message(role="user"), Message(role="wizard")))

    with pytest.raises(InvalidRequest, match=r"messages\[1\].role: .* got 'wizard'"):
        chat_to_wire(wizard)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
def test_all_names_of_the_reasoning_are_one_field_on_the_wire(name: str) -> None:
    messages = (Message(role="assistant", content="a"),)
    chat = ChatInput(messages=messages, continue_final_message=name)

    assert chat_to_wire(chat).continue_final_message == pb.CONTINUED_FIELD_REASONING
    assert chat_from_wire(chat_to_wire(chat)).continued_field == chat.continued_field
