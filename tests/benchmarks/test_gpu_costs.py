from __future__ import annotations

import pytest
import torch

from benchmarks.gpu.models import SHAPES, Shape, empty_weights
from benchmarks.gpu.passes.costs import ModelCosts
from benchmarks.gpu.passes.prompts import PAGE_TOKENS
from segue.model.cache_layout import cache_layout


def costs_of(shape: Shape) -> ModelCosts:
    config = shape.config()
    weights = empty_weights(config, dtype=torch.bfloat16, device="meta")
    layout = cache_layout(
        config, model_id="m", page_tokens=PAGE_TOKENS, kv_dtype="bfloat16", with_mtp=False
    )
    return ModelCosts.of(config, weights, layout)


@pytest.mark.parametrize(
    ("name", "billions", "kv_kib", "state_mib"),
    [("0.8B", 0.75, 12, 18), ("9B", 8.95, 32, 48), ("35B-A3B", 34.7, 20, 60)],
)
def test_the_shapes_are_those_of_the_published_models(
    name: str, billions: float, kv_kib: int, state_mib: int
) -> None:
    shape = next(shape for shape in SHAPES if shape.name == name)

    costs = costs_of(shape)

    # An untied embedding is not read by a step.
    embedding = 0 if shape.is_tied else shape.vocab_size * shape.hidden_size
    num_parameters = (costs.dense_bytes + costs.expert_bytes) / 2 + embedding
    assert num_parameters / 1e9 == pytest.approx(billions, rel=0.01)
    assert costs.kv_bytes_per_token == kv_kib << 10
    # Plus the convolution's last inputs.
    assert costs.slot_bytes / (1 << 20) == pytest.approx(state_mib, rel=0.05)


def test_a_token_uses_only_some_of_the_experts() -> None:
    dense, sparse = costs_of(SHAPES[1]), costs_of(SHAPES[2])

    head = SHAPES[1].vocab_size * SHAPES[1].hidden_size
    assert dense.layer_parameters == pytest.approx(dense.dense_bytes / 2 - head, rel=0.001)
    # "A3B" counts embedding and head too.
    assert sparse.layer_parameters / 1e9 == pytest.approx(2.4, abs=0.2)


def test_a_step_reads_weights_once_and_a_state_per_sequence() -> None:
    costs = costs_of(SHAPES[1])

    one, eight = costs.decode_bytes(1, 1000), costs.decode_bytes(8, 1000)

    assert eight - one == 7 * (1000 * costs.kv_bytes_per_token + 2 * costs.slot_bytes)


def test_more_sequences_use_more_experts_but_never_more_than_exist() -> None:
    costs = costs_of(SHAPES[2])

    def expert_bytes(num_sequences: int) -> float:
        cache = num_sequences * 2 * costs.slot_bytes
        return costs.decode_bytes(num_sequences, 0) - costs.dense_bytes - cache

    assert expert_bytes(1) == pytest.approx(costs.expert_bytes * 8 / 256)
    assert expert_bytes(1) < expert_bytes(64) < costs.expert_bytes
    assert expert_bytes(10_000) == pytest.approx(costs.expert_bytes)
