"""The mixture of experts for few tokens against its reference: the operators one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from segue.kernels.mixed_experts import MixedWeights, reference, triton
from segue.kernels.mixed_experts.reference import Stored
from segue.kernels.product.tiling import FEW_ROWS
from tests.kernels.closeness import assert_close, randn
from tests.kernels.device import DEVICE, DTYPES
from tests.kernels.test_quantized_product_triton import weight

HIDDEN, WIDTH, SHARED_WIDTH = 272, 48, 32
"""Sums take several steps, the last of them partial."""
NUM_EXPERTS, CHOSEN = 6, 2
FORMATS = ["plain", "fp8", "fp8, one scale", "nvfp4"]
_slow = pytest.mark.slow
FEW_FORMATS = ["plain", "fp8", pytest.param("fp8, one scale", marks=_slow)]
FEW_FORMATS += [pytest.param("nvfp4", marks=_slow)]
"""Of tests that take the interpreter seconds for each."""
PARTS = [slice(0, 1), slice(5, 6), slice(3, 7), slice(8, 25), slice(31, 32)]


def stored_as(stored: str, dtype: torch.dtype, *shape: int) -> Stored:
    if stored != "plain":
        return weight(stored, *shape)
    return [(randn(*shape, seed=sum(shape)) / shape[-1] ** 0.5).to(dtype)]


def weights_of(
    stored: str, dtype: torch.dtype = torch.float32, shared_width: int = SHARED_WIDTH
) -> MixedWeights:
    return MixedWeights(
        gate_up=stored_as(stored, dtype, NUM_EXPERTS, 2 * WIDTH, HIDDEN),
        down=stored_as(stored, dtype, NUM_EXPERTS, HIDDEN, WIDTH),
        shared_gate_up=stored_as(stored, dtype, 2 * shared_width, HIDDEN),
        shared_down=stored_as(stored, dtype, HIDDEN, shared_width),
        shared_gate_1H=(randn(1, HIDDEN, seed=6) / HIDDEN**0.5).to(dtype),
    )


def in_float32(weights: MixedWeights) -> MixedWeights:
    """Of plain ones all, of others the gate."""
    named = {"gate_up": weights.gate_up, "down": weights.down}
    named |= {"shared_gate_up": weights.shared_gate_up, "shared_down": weights.shared_down}
    if len(weights.gate_up) == 1:
        named = {name: [part.float() for part in each] for name, each in named.items()}
    return replace(weights, **named, shared_gate_1H=weights.shared_gate_1H.float())


def placed(weights: MixedWeights) -> MixedWeights:
    def moved(each: Stored) -> Stored:
        return [part.to(DEVICE) for part in each]

    return replace(
        weights,
        gate_up=moved(weights.gate_up),
        down=moved(weights.down),
        shared_gate_up=moved(weights.shared_gate_up),
        shared_down=moved(weights.shared_down),
        shared_gate_1H=weights.shared_gate_1H.to(DEVICE),
    )


def inputs_of(num_tokens: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return randn(num_tokens, HIDDEN, dtype=dtype), randn(
        num_tokens, NUM_EXPERTS, seed=1, dtype=dtype
    )


def mixed(x: Tensor, logits: Tensor, weights: MixedWeights) -> Tensor:
    """The kernels' answer, on the CPU."""
    out = triton.mixed_experts(
        x.to(DEVICE), logits.to(DEVICE), placed(weights), experts_per_token=CHOSEN
    )
    return out.cpu()


@pytest.mark.parametrize("num_tokens", [1, 4, pytest.param(17, marks=_slow), FEW_ROWS])
@pytest.mark.parametrize("stored", FORMATS)
@pytest.mark.parametrize("dtype", [DTYPES[1], pytest.param(DTYPES[0], marks=_slow)])
def test_it_is_the_reference(stored: str, num_tokens: int, dtype: torch.dtype) -> None:
    (x, logits), weights = inputs_of(num_tokens, dtype), weights_of(stored, dtype)

    out = mixed(x, logits, weights)

    # In float32, as the kernels sum; the reference would round gate and up, too.
    expected = reference.mixed_experts(
        x.float(), logits, in_float32(weights), experts_per_token=CHOSEN
    )
    assert out.dtype is dtype
    assert_close(out, expected, dtype)


@pytest.mark.parametrize("shared_width", [16, WIDTH, 80])
@pytest.mark.parametrize("stored", FEW_FORMATS)
def test_the_shared_expert_has_a_width_of_its_own(stored: str, shared_width: int) -> None:
    (x, logits), weights = inputs_of(3), weights_of(stored, shared_width=shared_width)

    out = mixed(x, logits, weights)

    assert_close(out, reference.mixed_experts(x, logits, weights, experts_per_token=CHOSEN))


@pytest.mark.parametrize(
    "stored", ["plain", *(pytest.param(each, marks=_slow) for each in FORMATS if each != "plain")]
)
def test_a_token_has_the_same_bits_beside_any_others(stored: str) -> None:
    (x, logits), weights = inputs_of(FEW_ROWS, DTYPES[1]), weights_of(stored, DTYPES[1])

    whole = mixed(x, logits, weights)

    for part in PARTS:
        assert torch.equal(mixed(x[part], logits[part], weights), whole[part])


@pytest.mark.parametrize("num_tokens", [triton.FEW_TOKENS, triton.FEW_TOKENS + 1])
@pytest.mark.parametrize("held", [range(2), range(2, 6), range(5, 6)])
def test_a_rank_that_has_some_experts_adds_its_part_of_the_shared_one(
    held: range, num_tokens: int
) -> None:
    (x, logits), whole = inputs_of(num_tokens), weights_of("plain")
    part = slice(held.start, held.stop)
    own = replace(
        whole,
        gate_up=[whole.gate_up[0][part].contiguous()],
        down=[whole.down[0][part].contiguous()],
        first_expert=held.start,
    )

    out = mixed(x, logits, own)

    assert_close(out, reference.mixed_experts(x, logits, own, experts_per_token=CHOSEN))


@pytest.mark.parametrize("num_tokens", [3, 20])
def test_an_expert_that_no_token_chose_may_hold_anything(num_tokens: int) -> None:
    (x, logits), weights = inputs_of(num_tokens), weights_of("plain")
    logits[:, :CHOSEN] += 100.0
    weights.gate_up[0][CHOSEN:] = torch.nan
    weights.down[0][CHOSEN:] = torch.nan

    assert mixed(x, logits, weights).isfinite().all()


@pytest.mark.parametrize("num_tokens", [4, 7])
def test_among_equals_the_lowest_ids_are_chosen(num_tokens: int) -> None:
    (x, _), weights = inputs_of(num_tokens), weights_of("plain")
    values = torch.tensor([-1.0, -0.0, 0.0, 1.0])
    generator = torch.Generator().manual_seed(5)
    logits = values[torch.randint(4, (num_tokens, NUM_EXPERTS), generator=generator)]

    out = mixed(x, logits, weights)

    assert_close(out, reference.mixed_experts(x, logits, weights, experts_per_token=CHOSEN))


@pytest.mark.parametrize("num_tokens", [2, 7])
def test_no_logit_leads_out_of_the_experts(num_tokens: int) -> None:
    (x, logits), weights = inputs_of(num_tokens), weights_of("plain")
    logits[1] = torch.nan
    logits[0] = -torch.inf
    logits[0, 4] = 2.0

    out = mixed(x, logits, weights)

    others = [token for token in range(num_tokens) if token != 1]
    expected = reference.mixed_experts(x, logits, weights, experts_per_token=CHOSEN)
    assert_close(out[others], expected[others])
    # Its weights are no numbers, but its experts are some of those there are.
    assert out[1].isnan().all()


@pytest.mark.parametrize("num_tokens", [0, FEW_ROWS + 1])
def test_other_numbers_of_tokens_are_left_to_the_operators(
    num_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (x, logits), weights = inputs_of(num_tokens), weights_of("plain")
    monkeypatch.delattr(triton, "tiles_kernel")

    out = mixed(x, logits, weights)

    expected = reference.mixed_experts(x, logits, weights, experts_per_token=CHOSEN)
    assert torch.equal(out, expected)


def test_what_the_kernels_do_not_take_is_refused() -> None:
    (x, logits), weights = inputs_of(2), weights_of("plain")
    gate_up = weights.gate_up[0]

    with pytest.raises(ValueError, match="one format"):
        mixed(x, logits, replace(weights, shared_down=weight("fp8", HIDDEN, SHARED_WIDTH)))
    with pytest.raises(ValueError, match="contiguous"):
        mixed(x, logits, replace(weights, gate_up=[gate_up.mT.contiguous().mT]))
    with pytest.raises(ValueError, match="dtype of x"):
        mixed(x.half(), logits, weights)
    with pytest.raises(ValueError, match="takes logits"):
        mixed(x, logits[:1], weights)
    with pytest.raises(ValueError, match="first held"):
        mixed(x, logits, replace(weights, first_expert=1))
