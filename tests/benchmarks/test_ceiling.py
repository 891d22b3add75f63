"""Bytes and FLOPs per token, from a checkpoint's own tensors and layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.harness.ceilings import Machine, model_cost, shipped_bytes
from segue.cache.layout import CacheField, CacheLayout, Unit
from segue.model.cache_layout import cache_layout
from segue.model.config import ModelConfig
from tests.runners import new_runner

LAYOUT = CacheLayout(
    model_id="m",
    page_tokens=4,
    fields=(
        CacheField(group="recurrent", layer=0, unit=Unit.SLOT, dtype="float32", shape=(2, 3)),
        CacheField(group="kv", layer=1, unit=Unit.PAGE, dtype="float32", shape=(2, 4, 5)),
    ),
)
WEIGHTS = [
    ("model.embed_tokens.weight", torch.empty(10, 3)),
    ("model.layers.0.mlp.experts.gate_up_proj", torch.empty(8, 4, 3)),
    ("model.layers.0.mlp.gate.weight", torch.empty(8, 3)),
    ("lm_head.weight", torch.empty(10, 3)),
]


def test_a_token_reads_no_untied_embedding_and_only_its_own_experts() -> None:
    cost = model_cost(WEIGHTS, LAYOUT, is_tied=False, expert_share=0.25)

    assert cost.num_parameters == 30 + 96 + 24 + 30
    assert cost.weight_bytes_per_token == 4 * (96 // 4 + 24 + 30)
    assert cost.flops_per_prompt_token == 2 * (96 // 4 + 24)


def test_a_tied_embedding_is_read_as_the_head() -> None:
    cost = model_cost(WEIGHTS[:3], LAYOUT, is_tied=True, expert_share=1.0)

    assert cost.weight_bytes_per_token == 4 * (30 + 96 + 24)


def test_the_state_is_read_and_written_and_the_cache_grows_by_a_position() -> None:
    cost = model_cost(WEIGHTS, LAYOUT, is_tied=False, expert_share=1.0)

    assert cost.cache_bytes_per_token == 2 * 24
    assert cost.kv_bytes_per_position == 160 // 4


def test_a_turn_ships_its_pages_and_one_slot() -> None:
    assert shipped_bytes(LAYOUT, 1) == 160 + 24
    assert shipped_bytes(LAYOUT, 4) == 160 + 24
    assert shipped_bytes(LAYOUT, 5) == 320 + 24


def test_the_bandwidth_is_that_of_the_faster_way_to_read() -> None:
    machine = Machine(sum_bytes_per_s=3e9, gemv_bytes_per_s=2e9, matmul_flops_per_s=1.0)
    cost = model_cost(WEIGHTS, LAYOUT, is_tied=False, expert_share=1.0)

    speed = cost.decode_tokens_per_s(machine.read_bytes_per_s)

    assert speed == pytest.approx(3e9 / cost.weight_bytes_per_token)


def test_the_counted_weights_are_those_that_the_engine_loads(tiny_dense: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_dense, dtype="auto")
    config = ModelConfig.from_folder(tiny_dense)
    layout = cache_layout(
        config, model_id="m", page_tokens=16, kv_dtype=config.dtype, with_mtp=False
    )
    runner = new_runner(tiny_dense, page_tokens=16, num_pages=1, num_slots=1)

    cost = model_cost(model.named_parameters(), layout, is_tied=False, expert_share=1.0)

    assert 4 * cost.num_parameters == runner.weight_bytes
