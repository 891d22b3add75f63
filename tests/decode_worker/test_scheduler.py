from __future__ import annotations

from decode_worker.engine.drafting import next_batch


def batch_of(running: list[str], max_batch: int) -> tuple[list[str], list[str]]:
    """A turn's name gives the number of prompt tokens to compute: "b30"."""
    return next_batch(
        running,
        max_batch,
        num_prompt_tokens=lambda name: int(name[1:] or "0"),
        max_prompt_tokens=50,
    )


def test_all_sequences_take_part_while_they_fit() -> None:
    batch, _ = batch_of(["a", "b"], 4)

    assert batch == ["a", "b"]


def test_beyond_the_limit_they_alternate() -> None:
    order = ["a", "b", "c"]
    steps = []
    for _ in range(3):
        batch, order = batch_of(order, 2)
        steps.append(batch)

    assert steps == [["a", "b"], ["c", "a"], ["b", "c"]]


def test_prompts_share_a_step_up_to_its_limit_beside_answers() -> None:
    batch, order = batch_of(["a30", "b", "c30", "d20", "e"], 8)

    assert batch == ["a30", "b", "d20", "e"]
    assert order[0] == "c30"


def test_a_prompt_beyond_the_limit_still_gets_a_step() -> None:
    batch, _ = batch_of(["a", "b300", "c10"], 8)

    assert batch == ["a", "b300"]
