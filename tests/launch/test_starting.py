"""How often a process that Ray restarts has died."""

from __future__ import annotations

from segue.launch.ray.starting import Deaths


def test_calls_that_fail_while_ray_restarts_a_process_tell_of_one_death() -> None:
    deaths = Deaths()

    are_new = [deaths.reported(100.0 + second, is_restarting=True) for second in (0.0, 3.0, 5.0)]

    assert are_new == [True, False, False]
    assert deaths.number == 1


def test_a_process_that_dies_again_and_again_is_counted_at_intervals() -> None:
    deaths = Deaths()

    for second in range(25):
        deaths.reported(100.0 + second, is_restarting=True)

    assert deaths.number == 3


def test_a_process_that_ray_has_given_up_dies_each_time() -> None:
    deaths = Deaths()

    assert all(deaths.reported(100.0, is_restarting=False) for _ in range(3))
    assert deaths.number == 3
