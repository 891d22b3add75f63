"""Which captured shape a step takes."""

from __future__ import annotations

import pytest

from segue.engine.device.buckets import MAX_GRAPHS, Buckets, StepShape


def buckets(max_batch: int = 64, max_context: int = 100_000) -> Buckets:
    return Buckets(max_batch=max_batch, max_drafts=4, max_context=max_context, page_tokens=16)


@pytest.mark.parametrize(
    ("max_batch", "sizes"),
    [
        (1, (1,)),
        (3, (1, 2, 3)),
        (8, (1, 2, 4, 8)),
        (16, (1, 2, 4, 8, 12, 16)),
        (40, (1, 2, 4, 8, 12, 16, 24, 32, 40)),
        (100, (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 100)),
    ],
)
def test_sizes_end_with_the_largest_batch(max_batch: int, sizes: tuple[int, ...]) -> None:
    assert buckets(max_batch).batch_sizes == sizes


@pytest.mark.parametrize(
    ("exact", "taken"),
    [
        (StepShape(1, 0, 1), StepShape(1, 0, 256)),
        (StepShape(3, 4, 256), StepShape(4, 4, 256)),
        (StepShape(9, 2, 257), StepShape(12, 2, 1024)),
        (StepShape(64, 1, 6250), StepShape(64, 1, 6250)),
    ],
)
def test_a_step_takes_the_smallest_shape_it_fits_into(exact: StepShape, taken: StepShape) -> None:
    assert buckets().shape_of(exact) == taken


def test_at_most_a_third_of_a_larger_step_is_padding() -> None:
    large = [(n, buckets(256).shape_of(StepShape(n, 0, 1)).num_sequences) for n in range(8, 257)]

    assert all(size * 2 <= n * 3 for n, size in large)


def test_a_step_beyond_the_largest_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="no step is as large as 65"):
        buckets().shape_of(StepShape(65, 0, 1))


def test_what_is_captured_at_the_start_fits_into_what_is_kept() -> None:
    largest = Buckets(max_batch=256, max_drafts=7, max_context=1 << 18, page_tokens=16)
    shapes = list(largest.first_shapes())

    # And as many again for longer contexts and other sampling.
    assert len(set(shapes)) == len(shapes) <= MAX_GRAPHS * 2 // 3
    assert {shape.num_drafts for shape in shapes} == set(range(8))


def test_a_short_context_has_one_width() -> None:
    assert buckets(max_context=1000).page_counts == (63,)
