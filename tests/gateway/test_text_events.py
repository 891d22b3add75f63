"""Events that differ in one text are encoded as any other event."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from segue.gateway.http.stream import TextEvents, event


@given(text=st.text(st.characters(exclude_categories=["Cs"])), other=st.text(max_size=8))
def test_a_text_is_escaped_and_all_around_it_stays(text: str, other: str) -> None:
    def with_text(some: str) -> bytes:
        return event("delta", {"id": other, "choices": [{"a": some, "b": some}], other: None})

    assert TextEvents(with_text).of(text) == with_text(text)
