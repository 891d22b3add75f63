"""Which captured shape a step takes."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.api.types import Sampling
from segue.engine.device.buckets import FEW, FILTERED, Buckets, Half, StepShape
from segue.engine.sampler import needs_of
from segue.kernels.sampling import EVERYTHING, MAX_FEW, SamplingFeatures


def buckets(max_batch: int = 64, max_drafts: int = 4) -> Buckets:
    return Buckets(max_batch=max_batch, max_drafts=max_drafts, num_pages=6250)


def sizes_of(max_batch: int, **wanted: object) -> list[int]:
    """Numbers of sequences that are captured, of shapes with these values."""
    return sorted(
        {
            shape.num_sequences
            for shape in buckets(max_batch).shapes()
            if all(getattr(shape, name) == value for name, value in wanted.items())
        }
    )


@pytest.mark.parametrize(
    ("max_batch", "usual", "rare"),
    [
        (1, [1], [1]),
        (3, [1, 2, 3], [1, 2, 3]),
        (8, [1, 2, 4, 8], [1, 2, 4, 8]),
        (16, [1, 2, 4, 8, 12, 16], [1, 2, 4, 8, 16]),
        (40, [1, 2, 4, 8, 12, 16, 24, 32, 40], [1, 2, 4, 8, 16, 32, 40]),
        (100, [1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 100], [1, 2, 4, 8, 16, 32, 64, 100]),
    ],
)
def test_sizes_end_with_the_largest_batch(
    max_batch: int, usual: list[int], rare: list[int]
) -> None:
    assert sizes_of(max_batch, needs=FEW) == usual
    assert sizes_of(max_batch, needs=FILTERED) == usual
    assert sizes_of(max_batch, needs=EVERYTHING) == rare
    assert sizes_of(max_batch, half="draft") == sizes_of(max_batch, half="verify") == rare


GREEDY, MASKED = SamplingFeatures(), SamplingFeatures(masks=True)


@pytest.mark.parametrize(
    ("exact", "taken"),
    [
        (StepShape(1, 0, 1, needs=GREEDY), StepShape(1, 0, 6250, needs=FEW)),
        (StepShape(3, 4, 256, needs=MASKED), StepShape(4, 4, 6250, needs=FEW)),
        (StepShape(9, 2, 257, needs=FILTERED), StepShape(12, 2, 6250, needs=FILTERED)),
        (StepShape(9, 2, 257), StepShape(16, 2, 6250, with_logprobs=True)),
        (
            StepShape(33, 1, 1, with_logprobs=True, needs=GREEDY),
            StepShape(64, 1, 6250, with_logprobs=True),
        ),
        (
            StepShape(5, 3, 1, needs=MASKED, half="draft"),
            StepShape(8, 3, 6250, with_logprobs=True, half="draft"),
        ),
    ],
)
def test_a_step_takes_the_smallest_shape_it_fits_into(exact: StepShape, taken: StepShape) -> None:
    assert buckets().shape_of(exact) == taken


QWEN = needs_of(Sampling(temperature=1.0, top_k=20, top_p=0.95))
FROM_ALL = needs_of(Sampling(temperature=1.0, top_p=0.9))
PENALISED = needs_of(Sampling(temperature=0.0, presence_penalty=1.0))


@pytest.mark.parametrize(
    ("needs", "taken"),
    [
        (needs_of(Sampling()), FEW),
        (QWEN, FEW),
        (QWEN | PENALISED | MASKED, FEW),
        (needs_of(Sampling(temperature=1.0, top_k=MAX_FEW)), FEW),
        (needs_of(Sampling(temperature=1.0, top_k=MAX_FEW + 1)), FILTERED),
        (needs_of(Sampling(temperature=1.0)), FILTERED),
        (FROM_ALL | QWEN | MASKED, FILTERED),
        (FROM_ALL | PENALISED, EVERYTHING),
    ],
)
def test_one_row_that_draws_from_all_tokens_determines_the_shape_of_its_step(
    needs: SamplingFeatures, taken: SamplingFeatures
) -> None:
    assert buckets().shape_of(StepShape(1, 0, 1, needs=needs)).needs == taken


FEATURES = [f.name for f in fields(SamplingFeatures)]


@given(
    num_sequences=st.integers(1, 64),
    num_drafts=st.integers(0, 4),
    with_logprobs=st.booleans(),
    features=st.sets(st.sampled_from(FEATURES)),
    half=st.sampled_from([None, "draft", "verify"]),
)
def test_every_step_has_a_captured_shape(
    num_sequences: int,
    num_drafts: int,
    with_logprobs: bool,
    features: set[str],
    half: Half | None,
) -> None:
    needs = SamplingFeatures(**dict.fromkeys(features, True))
    exact = StepShape(num_sequences, num_drafts, 1, with_logprobs, needs, half)
    shape = buckets().shape_of(exact if num_drafts else replace(exact, half=None))

    assert shape in set(buckets().shapes())
    assert shape.num_sequences >= num_sequences
    assert shape.num_drafts == num_drafts
    assert shape.with_logprobs >= with_logprobs
    assert shape.needs | needs == shape.needs


def test_at_most_a_third_of_a_larger_step_is_padding() -> None:
    usual = StepShape(1, 0, 1, needs=GREEDY)
    large = [
        (n, buckets(256).shape_of(replace(usual, num_sequences=n)).num_sequences)
        for n in range(8, 257)
    ]

    assert all(size * 2 <= n * 3 for n, size in large)


def test_a_step_larger_than_the_largest_shape_raises() -> None:
    with pytest.raises(AssertionError, match="no step is as large as 65"):
        buckets().shape_of(StepShape(65, 0, 1))


@pytest.mark.parametrize(("max_batch", "max_drafts", "most"), [(64, 3, 150), (256, 7, 430)])
def test_shapes_are_captured_once_and_are_not_too_many(
    max_batch: int, max_drafts: int, most: int
) -> None:
    shapes = list(buckets(max_batch, max_drafts).shapes())

    assert len(set(shapes)) == len(shapes) <= most
    assert shapes[0].num_sequences == max_batch
    assert {shape.num_drafts for shape in shapes} == set(range(max_drafts + 1))
