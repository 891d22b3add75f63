from __future__ import annotations

import math

import pytest
import torch

from segue.kernels.sampling.noise import MAX_NOISE, MIN_NOISE, gumbel_of_all, philox
from segue.kernels.sampling.noise import gumbel as gumbel_of

EULER = 0.5772156649015329


def gumbel(seed: int, position: int, token_ids: torch.Tensor) -> torch.Tensor:
    return gumbel_of(
        torch.full_like(token_ids, seed), torch.full_like(token_ids, position), token_ids
    )


def column(*words: int) -> torch.Tensor:
    return torch.tensor([[word] for word in words])


# From kat_vectors of Random123, the reference implementation of the paper's authors.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        (
            (0, 0, 0, 0),
            (0, 0),
            (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        ),
        (
            (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
            (0xFFFFFFFF, 0xFFFFFFFF),
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert philox(column(*counter), column(*key))[:, 0].tolist() == list(expected)


@pytest.mark.parametrize("token_ids", [[8, 9, 10, 11], [11, 9, 9, 200_000]])
def test_noise_is_a_word_of_philox_as_a_gumbel_number(token_ids: list[int]) -> None:
    noise = gumbel((3 << 32) + 9, (2 << 32) + 5, torch.tensor(token_ids))

    words = [
        int(philox(column(token_id // 4, 5, 2, 0), column(9, 3))[token_id % 4, 0])
        for token_id in token_ids
    ]
    expected = [-math.log(-math.log1p(-(word + 0.5) / 2**32)) for word in words]
    assert noise.dtype == torch.float64
    assert noise.tolist() == pytest.approx(expected, rel=1e-14)


def test_the_noise_of_a_token_depends_on_nothing_beside_it() -> None:
    alone = gumbel(1, 2, torch.tensor([99]))
    among = gumbel(1, 2, torch.arange(50_000).flip(0))

    assert float(alone) == float(among[50_000 - 1 - 99])


def test_numbers_made_together_are_as_if_each_were_made_alone() -> None:
    seeds, positions = torch.tensor([1, 2**40, 1]), torch.tensor([2, 2**35, 3])
    ids = torch.tensor([5, 99, 70_000])

    together = gumbel_of(seeds, positions, ids)

    parts = zip(seeds.tolist(), positions.tolist(), ids.tolist(), strict=True)
    alone = [gumbel(seed, position, torch.tensor([one])) for seed, position, one in parts]
    assert together.equal(torch.cat(alone))


@pytest.mark.parametrize("vocab_size", [1, 4, 7, 300, 70_001])
def test_the_noise_of_all_tokens_is_that_of_each(vocab_size: int) -> None:
    seeds, positions = torch.tensor([3, 2**62 + 7]), torch.tensor([2**33 + 1, 0])

    noise = gumbel_of_all(seeds, positions, vocab_size)

    for row in range(2):
        alone = gumbel(int(seeds[row]), int(positions[row]), torch.arange(vocab_size))
        assert noise[row].equal(alone)


def test_no_word_gives_noise_beyond_the_bounds() -> None:
    least, greatest = ((word + 0.5) / 2**32 for word in (0, 2**32 - 1))

    assert -math.log(-math.log1p(-greatest)) > MIN_NOISE
    assert -math.log(-math.log1p(-least)) < MAX_NOISE


@pytest.mark.parametrize(
    ("seed", "position"), [(1, 0), (1 << 32, 0), (0, 1), (0, 1 << 32), (2**63 - 1, 5)]
)
def test_every_word_of_seed_and_position_changes_the_noise(seed: int, position: int) -> None:
    ids = torch.arange(1000)

    assert not torch.isclose(gumbel(seed, position, ids), gumbel(0, 0, ids)).any()


def test_the_noise_follows_the_gumbel_law() -> None:
    noise = torch.cat([gumbel(5, position, torch.arange(1000)) for position in range(200)])

    points = torch.linspace(-1.5, 6.0, 40, dtype=torch.float64)
    below = (noise[None, :] <= points[:, None]).double().mean(dim=1)
    # Kolmogorov's statistic stays below 1.63 / sqrt(n) in 99 of 100 samples.
    assert float((below - torch.exp(-torch.exp(-points))).abs().max()) < 1.63 / noise.numel() ** 0.5
    assert float(noise.mean()) == pytest.approx(EULER, abs=0.01)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, rel=0.02)


def test_neighbouring_positions_and_tokens_are_uncorrelated() -> None:
    noise = torch.stack([gumbel(5, position, torch.arange(2000)) for position in range(100)])
    centred = noise - noise.mean()

    along_tokens = (centred[:, 1:] * centred[:, :-1]).mean() / centred.var()
    along_positions = (centred[1:] * centred[:-1]).mean() / centred.var()

    assert abs(float(along_tokens)) < 0.01
    assert abs(float(along_positions)) < 0.01


def test_the_noise_is_finite_everywhere() -> None:
    assert torch.isfinite(gumbel(3, 4, torch.arange(300_000))).all()
