"""The choice of k against machines and texts that are made up."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from segue.engine.draft_length import TRY_EVERY, DraftLength, size_class

MAX_DRAFTS = 7


@dataclass
class World:
    """Seconds of a step: some for the weights, some for each row, some for each drafting pass."""

    weights_s: float
    row_s: float
    draft_s: float
    acceptance: float
    noise: float = 0.1
    unlucky: int = 0
    """A number of drafts whose steps take longer than the numbers around it."""
    random: random.Random = field(default_factory=lambda: random.Random(0))

    def seconds(self, batch_size: int, k: int) -> float:
        seconds = self.weights_s + self.row_s * batch_size * (k + 1) + self.draft_s * k
        return 1.2 * seconds if k and k == self.unlucky else seconds

    def rate(self, batch_size: int, k: int) -> float:
        return sum(self.acceptance**j for j in range(k + 1)) / self.seconds(batch_size, k)

    def best(self, batch_size: int) -> int:
        return max(range(MAX_DRAFTS + 1), key=lambda k: self.rate(batch_size, k))

    def step(self, chooser: DraftLength, batch_size: int) -> int:
        k = chooser.choose(batch_size, MAX_DRAFTS)
        accepted = []
        for _ in range(batch_size):
            count = 0
            while count < k and self.random.random() < self.acceptance:
                count += 1
            accepted.append(count)
        seconds = self.seconds(batch_size, k) * self.random.uniform(1, 1 + self.noise)
        chooser.observe(batch_size, k, seconds, accepted)
        return k


GPU_LIKE = World(weights_s=10.0, row_s=0.01, draft_s=0.3, acceptance=0.8)
CPU_LIKE = World(weights_s=1.0, row_s=3.0, draft_s=1.0, acceptance=0.8)
BETWEEN = World(weights_s=10.0, row_s=1.0, draft_s=0.5, acceptance=0.6)


@pytest.mark.parametrize("batch_size", [1, 4, 30])
@pytest.mark.parametrize("world", [GPU_LIKE, CPU_LIKE, BETWEEN], ids=["gpu", "cpu", "between"])
def test_nearly_all_steps_are_as_good_as_the_best(world: World, batch_size: int) -> None:
    chooser = DraftLength(MAX_DRAFTS)
    for _ in range(100):
        world.step(chooser, batch_size)

    chosen = [world.step(chooser, batch_size) for _ in range(500)]

    best = world.rate(batch_size, world.best(batch_size))
    good = [k for k in chosen if world.rate(batch_size, k) > 0.93 * best]
    assert len(good) >= 500 * (1 - 2 / TRY_EVERY)


@pytest.mark.parametrize("unlucky", [1, 2, 3])
def test_one_bad_number_does_not_hide_better_ones(unlucky: int) -> None:
    world = World(weights_s=3.0, row_s=0.3, draft_s=0.7, acceptance=0.97, unlucky=unlucky)
    chooser = DraftLength(MAX_DRAFTS)
    for _ in range(100):
        world.step(chooser, 1)

    chosen = [world.step(chooser, 1) for _ in range(500)]

    best = world.rate(1, world.best(1))
    good = [k for k in chosen if world.rate(1, k) > 0.93 * best]
    assert world.best(1) == MAX_DRAFTS
    assert len(good) >= 500 * (1 - 2 / TRY_EVERY)


def test_what_pays_is_found_within_a_few_answers() -> None:
    world = World(weights_s=3.0, row_s=0.3, draft_s=0.7, acceptance=0.97)
    chooser = DraftLength(MAX_DRAFTS)

    chosen = [world.step(chooser, 1) for _ in range(40)]

    assert world.best(1) == MAX_DRAFTS
    assert min(chosen[20:]) >= MAX_DRAFTS - 1


def test_load_that_comes_and_goes_hardly_hides_the_best_number() -> None:
    world = World(weights_s=7.0, row_s=0.18, draft_s=1.65, acceptance=0.965)
    achieved = []
    for seed in range(60):
        draw, chooser, load = random.Random(seed), DraftLength(MAX_DRAFTS), 1.0
        tokens = seconds = 0.0
        for _ in range(100):
            if draw.random() < 0.05:
                load = draw.choice([1.0, 1.0, 1.0, 1.15, 1.3])
            k = chooser.choose(8, MAX_DRAFTS)
            accepted = next((j for j in range(k) if draw.random() > world.acceptance), k)
            noisy = world.seconds(8, k) * load * draw.lognormvariate(0, 0.08)
            chooser.observe(8, k, noisy, [accepted])
            tokens += world.rate(8, k) * world.seconds(8, k)
            seconds += world.seconds(8, k)
        achieved.append(tokens / seconds / world.rate(8, world.best(8)))

    assert world.best(8) == MAX_DRAFTS
    assert sorted(achieved)[6] > 0.9


def test_nothing_is_drafted_where_it_does_not_pay() -> None:
    useless = World(weights_s=10.0, row_s=0.1, draft_s=1.0, acceptance=0.0)
    chooser = DraftLength(MAX_DRAFTS)
    for _ in range(50):
        useless.step(chooser, 2)

    chosen = [useless.step(chooser, 2) for _ in range(TRY_EVERY * 5)]

    assert set(chosen) == {0, 1}
    assert chosen.count(1) <= 5


def test_larger_batches_may_have_fewer_drafts() -> None:
    chooser = DraftLength(MAX_DRAFTS)
    for _ in range(200):
        BETWEEN.step(chooser, 1)
        BETWEEN.step(chooser, 30)

    assert BETWEEN.best(1) > BETWEEN.best(30) == 0
    assert chooser.choose(1, MAX_DRAFTS) >= 2
    assert chooser.choose(30, MAX_DRAFTS) == 0


def test_texts_that_become_predictable_are_noticed() -> None:
    world = World(weights_s=10.0, row_s=0.01, draft_s=3.0, acceptance=0.05)
    chooser = DraftLength(MAX_DRAFTS)
    for _ in range(200):
        world.step(chooser, 8)
    before = chooser.choose(8, MAX_DRAFTS)

    world.acceptance = 0.95
    for _ in range(3000):
        world.step(chooser, 8)

    assert before == 0
    assert chooser.choose(8, MAX_DRAFTS) >= 3


def test_a_slow_step_now_and_then_changes_nothing() -> None:
    chooser = DraftLength(MAX_DRAFTS)
    chosen = []
    for i in range(400):
        k = chooser.choose(1, MAX_DRAFTS)
        chosen.append(k)
        chooser.observe(1, k, 50.0 if i % 20 == 7 else 1.0 + 0.3 * k, [0])

    assert chosen[-300:].count(0) > 290


def test_where_no_draft_is_allowed_none_is_made() -> None:
    chooser = DraftLength(0)
    for _ in range(2 * TRY_EVERY):
        assert chooser.choose(3, MAX_DRAFTS) == 0
        chooser.observe(3, 0, 1.0, [0, 0, 0])


def test_expected_tokens_follow_the_shares_that_were_accepted() -> None:
    chooser = DraftLength(3)
    for _ in range(400):
        chooser.observe(1, 3, 1.0, [1])

    assert chooser.expected_tokens(0) == 1.0
    assert chooser.expected_tokens(1) == pytest.approx(2.0, abs=0.05)
    assert chooser.expected_tokens(3) == pytest.approx(2.0, abs=0.1)


def test_large_batches_of_about_a_size_share_what_was_learned() -> None:
    assert [size_class(n) for n in (1, 7, 8, 9, 16, 17, 32, 33)] == [1, 7, 8, 16, 16, 32, 32, 64]


def test_a_batch_without_room_for_the_best_number_gets_the_best_that_it_has_room_for() -> None:
    chooser = DraftLength(MAX_DRAFTS)
    for _ in range(100):
        GPU_LIKE.step(chooser, 1)

    assert chooser.choose(1, MAX_DRAFTS) >= 3
    assert [chooser.choose(1, most) for most in (0, 1, 2)] == [0, 1, 2]


def test_slots_are_held_for_one_draft_more_than_pays() -> None:
    for world in (GPU_LIKE, BETWEEN, CPU_LIKE):
        chooser = DraftLength(MAX_DRAFTS)
        assert chooser.reach == MAX_DRAFTS
        for _ in range(200):
            world.step(chooser, 1)
            chooser.choose(1, 1)

        chosen = [world.step(chooser, 1) for _ in range(200)]

        assert chooser.reach >= min(max(chosen), MAX_DRAFTS)
        assert chooser.reach <= world.best(1) + 2
