from __future__ import annotations

from decode_worker.scheduler import next_batch


def test_all_take_part_while_they_fit() -> None:
    batch, _ = next_batch(["a", "b"], 4)

    assert batch == ["a", "b"]


def test_beyond_the_limit_they_take_turns() -> None:
    order = ["a", "b", "c"]
    steps = []
    for _ in range(3):
        batch, order = next_batch(order, 2)
        steps.append(list(batch))

    assert steps == [["a", "b"], ["c", "a"], ["b", "c"]]
