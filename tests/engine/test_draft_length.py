"""The choice of k, against simulated machines and texts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from segue.engine.speculation.draft_length import RECENT_STEPS, TRY_EVERY, DraftLength, size_class

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

    def step(self, chooser: DraftLength, batch_size: int, rooms: Sequence[int] = ()) -> int:
        """Each sequence has room for the maximum of drafts, unless `rooms` is given."""
        rooms = rooms or [MAX_DRAFTS] * batch_size
        k = chooser.choose(rooms)
        drafted = [min(k, room) for room in rooms]
        accepted = []
        for num in drafted:
            count = 0
            while count < num and self.random.random() < self.acceptance:
                count += 1
            accepted.append(count)
        seconds = self.seconds(batch_size, k) * self.random.uniform(1, 1 + self.noise)
        chooser.observe(k, seconds, drafted, accepted)
        return k


GPU_LIKE = World(weights_s=10.0, row_s=0.01, draft_s=0.3, acceptance=0.8)
CPU_LIKE = World(weights_s=1.0, row_s=3.0, draft_s=1.0, acceptance=0.8)
BETWEEN = World(weights_s=10.0, row_s=1.0, draft_s=0.5, acceptance=0.6)


@pytest.fixture(autouse=True)
def same_luck() -> None:
    """Whatever ran before."""
    for world in (GPU_LIKE, CPU_LIKE, BETWEEN):
        world.random.seed(0)


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


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("unlucky", [1, 2, 3])
def test_one_bad_number_of_drafts_does_not_hide_better_ones(unlucky: int, seed: int) -> None:
    luck = random.Random(seed)
    world = World(3.0, row_s=0.3, draft_s=0.7, acceptance=0.97, unlucky=unlucky, random=luck)
    chooser = DraftLength(MAX_DRAFTS)
    for _ in range(100):
        world.step(chooser, 1)

    chosen = [world.step(chooser, 1) for _ in range(500)]

    best = world.rate(1, world.best(1))
    good = [k for k in chosen if world.rate(1, k) > 0.97 * best]
    assert world.best(1) == MAX_DRAFTS
    assert len(good) >= 500 * (1 - 2 / TRY_EVERY)


def test_the_best_number_is_found_within_a_few_answers() -> None:
    world = World(weights_s=3.0, row_s=0.3, draft_s=0.7, acceptance=0.97)
    chooser = DraftLength(MAX_DRAFTS)

    chosen = [world.step(chooser, 1) for _ in range(40)]

    assert world.best(1) == MAX_DRAFTS
    assert chosen[20:].count(MAX_DRAFTS) >= 18


@pytest.mark.parametrize("slow_share", [0.0, 0.02])
def test_load_and_slow_steps_hardly_hide_the_best_number(slow_share: float) -> None:
    world = World(weights_s=7.0, row_s=0.18, draft_s=1.65, acceptance=0.965)
    achieved = []
    for seed in range(60):
        draw, chooser, load = random.Random(seed), DraftLength(MAX_DRAFTS), 1.0
        tokens = seconds = 0.0
        for _ in range(100):
            if draw.random() < 0.05:
                load = draw.choice([1.0, 1.0, 1.0, 1.15, 1.3])
            k = chooser.choose([MAX_DRAFTS] * 8)
            accepted = next((j for j in range(k) if draw.random() > world.acceptance), k)
            slow = 2.5 if slow_share and draw.random() < slow_share else 1.0
            noisy = world.seconds(8, k) * load * slow * draw.lognormvariate(0, 0.08)
            chooser.observe(k, noisy, [k] * 8, [accepted] * 8)
            tokens += world.rate(8, k) * world.seconds(8, k)
            seconds += world.seconds(8, k)
        achieved.append(tokens / seconds / world.rate(8, world.best(8)))

    assert world.best(8) == MAX_DRAFTS
    assert min(achieved) > 0.92
    assert sorted(achieved)[6] > 0.95


def test_nothing_is_drafted_if_it_does_not_pay_off() -> None:
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
    assert chooser.choose([MAX_DRAFTS] * 1) >= 2
    assert chooser.choose([MAX_DRAFTS] * 30) == 0


def test_texts_that_become_predictable_are_noticed() -> None:
    world = World(weights_s=10.0, row_s=0.01, draft_s=3.0, acceptance=0.05)
    chooser = DraftLength(MAX_DRAFTS)
    for _ in range(200):
        world.step(chooser, 8)
    before = chooser.choose([MAX_DRAFTS] * 8)

    world.acceptance = 0.95
    for _ in range(3000):
        world.step(chooser, 8)

    assert before == 0
    assert chooser.choose([MAX_DRAFTS] * 8) >= 3


def test_an_occasional_slow_step_changes_nothing() -> None:
    chooser = DraftLength(MAX_DRAFTS)
    chosen = []
    for i in range(400):
        k = chooser.choose([MAX_DRAFTS] * 1)
        chosen.append(k)
        chooser.observe(k, 50.0 if i % 20 == 7 else 1.0 + 0.3 * k, [k], [0])

    assert chosen[-300:].count(0) > 290


def test_without_allowed_drafts_none_is_made() -> None:
    chooser = DraftLength(0)
    for _ in range(2 * TRY_EVERY):
        assert chooser.choose([MAX_DRAFTS] * 3) == 0
        chooser.observe(0, 1.0, [0, 0, 0], [0, 0, 0])


def test_expected_tokens_follow_the_shares_that_were_accepted() -> None:
    chooser = DraftLength(3)
    for _ in range(400):
        chooser.observe(3, 1.0, [3], [1])

    assert chooser.expected_tokens(0) == 1.0
    assert chooser.expected_tokens(1) == pytest.approx(2.0, abs=0.05)
    assert chooser.expected_tokens(3) == pytest.approx(2.0, abs=0.1)


def test_large_batches_of_similar_size_share_measurements() -> None:
    assert [size_class(n) for n in (1, 7, 8, 9, 16, 17, 32, 33)] == [1, 7, 8, 16, 16, 32, 32, 64]


def test_a_batch_without_room_for_the_best_number_gets_the_best_that_it_has_room_for() -> None:
    chooser = DraftLength(MAX_DRAFTS)
    for _ in range(100):
        GPU_LIKE.step(chooser, 1)

    assert chooser.choose([MAX_DRAFTS]) >= 3
    assert [chooser.choose([room]) for room in (0, 1, 2)] == [0, 1, 2]


@pytest.mark.parametrize("short", [0, 1])
def test_one_sequence_with_few_slots_does_not_prevent_measurements(short: int) -> None:
    world = World(weights_s=10.0, row_s=0.05, draft_s=0.6, acceptance=0.9)
    chooser = DraftLength(MAX_DRAFTS)
    rooms = [MAX_DRAFTS] * 7 + [short]
    for _ in range(100):
        world.step(chooser, 8, rooms)

    chosen = [world.step(chooser, 8, rooms) for _ in range(500)]

    best = world.rate(8, world.best(8))
    good = [k for k in chosen if world.rate(8, k) > 0.93 * best]
    assert len(good) >= 500 * (1 - 2 / TRY_EVERY)


def test_wrong_deep_drafts_are_noticed_beside_a_sequence_with_few_slots() -> None:
    """The first draft is nearly always right, and a second one hardly ever."""
    world, chooser = replace(GPU_LIKE, draft_s=2.0), DraftLength(MAX_DRAFTS)
    rooms, chosen = [MAX_DRAFTS] * 7 + [1], []
    for i in range(400):
        chosen.append(k := chooser.choose(rooms))
        drafted = [min(k, room) for room in rooms]
        chooser.observe(k, world.seconds(8, k), drafted, [min(num, i % 20 > 0) for num in drafted])

    assert chosen[100:].count(1) >= 290


def test_a_first_draft_that_costs_more_than_the_next_ones_hides_none_of_them() -> None:
    seconds = [3.0, 6.2, 6.4, 6.6, 6.8, 7.0, 7.2, 7.4]
    draw, chooser, chosen = random.Random(0), DraftLength(MAX_DRAFTS), []
    for _ in range(300):
        chosen.append(k := chooser.choose([MAX_DRAFTS]))
        accepted = next((j for j in range(k) if draw.random() > 0.8), k)
        chooser.observe(k, seconds[k], [k], [accepted])

    assert min(sorted(chosen[100:])[10:]) >= MAX_DRAFTS - 1


def test_steps_without_measurable_time_do_not_divide_by_zero() -> None:
    chooser = DraftLength(MAX_DRAFTS)
    for _ in range(200):
        k = chooser.choose([MAX_DRAFTS])
        chooser.observe(k, 0.0, [k], [k])

    assert 0 <= chooser.choose([MAX_DRAFTS]) <= MAX_DRAFTS


@pytest.mark.parametrize("world", [GPU_LIKE, CPU_LIKE, BETWEEN], ids=["gpu", "cpu", "between"])
def test_slots_are_reserved_for_one_draft_more_than_the_best_number(world: World) -> None:
    chooser = DraftLength(MAX_DRAFTS)
    before = chooser.reach
    for _ in range(300):
        world.step(chooser, 1)

    chosen = [world.step(chooser, 1) for _ in range(TRY_EVERY)]

    assert before == MAX_DRAFTS
    assert min(max(chosen), MAX_DRAFTS) <= chooser.reach <= world.best(1) + 2


def test_reserved_slots_follow_recent_batch_sizes() -> None:
    chooser = DraftLength(MAX_DRAFTS)
    for _ in range(200):
        GPU_LIKE.step(chooser, 1)
    alone = chooser.reach
    for _ in range(RECENT_STEPS + 1):
        CPU_LIKE.step(chooser, 16)

    assert alone >= 3
    assert chooser.reach == 1
