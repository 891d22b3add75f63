from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefill_worker.scheduler import Progress, ScheduledChunk, complete_pages, plan_chunks


def test_a_long_prompt_is_split() -> None:
    assert plan_chunks([Progress(4, 20)], 8) == [ScheduledChunk(0, 4, 12)]


def test_a_short_turn_does_not_wait_for_a_long_prompt_before_it() -> None:
    waiting = [Progress(4, 20), Progress(0, 3)]

    assert plan_chunks(waiting, 8) == [ScheduledChunk(0, 4, 9), ScheduledChunk(1, 0, 3)]


def test_a_long_prompt_progresses_however_many_short_turns_arrive() -> None:
    waiting = [Progress(4, 20), *(Progress(0, 3) for _ in range(9))]

    assert plan_chunks(waiting, 8)[0] == ScheduledChunk(0, 4, 8)


def test_short_prompts_share_a_pass_and_the_last_gets_a_part() -> None:
    waiting = [Progress(0, 3), Progress(2, 4), Progress(0, 9)]

    assert plan_chunks(waiting, 8) == [
        ScheduledChunk(0, 0, 3),
        ScheduledChunk(1, 2, 4),
        ScheduledChunk(2, 0, 3),
    ]


def test_a_token_that_costs_more_takes_more_of_a_pass() -> None:
    waiting = [Progress(0, 20, token_cost=2), Progress(0, 9)]

    assert plan_chunks(waiting, 8) == [ScheduledChunk(0, 0, 2), ScheduledChunk(1, 0, 4)]
    assert plan_chunks(waiting[:1], 8) == [ScheduledChunk(0, 0, 4)]


def test_an_empty_queue_plans_nothing() -> None:
    assert plan_chunks([], 8) == []


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=5),
    st.lists(st.integers(1, 3), min_size=5, max_size=5),
    st.integers(1, 20),
)
def test_every_token_is_computed_once_in_order_of_arrival(
    lengths: list[int], costs: list[int], chunk_tokens: int
) -> None:
    waiting = [
        Progress(0, length, cost)
        for length, cost in zip(lengths, costs[: len(lengths)], strict=True)
    ]
    computed = [0] * len(lengths)

    while any(p.num_computed < p.num_prompt for p in waiting):
        open_ = [i for i, p in enumerate(waiting) if p.num_computed < p.num_prompt]
        chunks = plan_chunks([waiting[i] for i in open_], chunk_tokens)
        costs_now = [(c.end - c.start) * costs[open_[c.index]] for c in chunks]
        # The last chunk of each half may be rounded up to a token.
        assert 0 < sum(costs_now) <= chunk_tokens + 2 * (max(costs) - 1)
        for chunk in chunks:
            index = open_[chunk.index]
            assert chunk.start == computed[index]
            computed[index] = chunk.end
            waiting[index] = Progress(chunk.end, lengths[index], costs[index])

    assert computed == lengths


@pytest.mark.parametrize(
    ("start", "end", "is_last", "pages"),
    [
        (0, 10, False, range(2)),
        (0, 10, True, range(3)),
        (10, 12, False, range(2, 3)),
        (10, 11, False, range(2, 2)),
        (8, 12, True, range(2, 3)),
    ],
)
def test_a_page_is_complete_when_it_is_full_or_nothing_follows(
    start: int, end: int, is_last: bool, pages: range
) -> None:
    assert complete_pages(start, end, is_last=is_last, page_tokens=4) == pages


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 8))
def test_the_chunks_of_a_prompt_complete_each_page_once(sizes: list[int], page_tokens: int) -> None:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    pages = [
        page
        for start, end in zip([0, *ends], ends, strict=False)
        for page in complete_pages(start, end, is_last=end == ends[-1], page_tokens=page_tokens)
    ]

    assert pages == list(range(-(-ends[-1] // page_tokens)))
