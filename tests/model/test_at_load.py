"""Plain checkpoints that are quantised when they are loaded, against transformers with the same
numbers as plain weights."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scripts.quantize import quantize
from segue.api.errors import InvalidCheckpoint, InvalidConfig
from segue.cache.tensors import TORCH_DTYPES
from segue.demo import checkpoint_dir
from segue.engine.config import EngineConfig
from segue.engine.served_model import ServedModel
from segue.model.checkpoint.loading import load_weights
from segue.model.checkpoint.model_id import folder_id
from segue.model.checkpoint.preflight import check_folder
from segue.model.weights.quantization import WeightFormat
from segue.model.weights.rounding import rounded
from segue.parallel.rank import Rank
from tests.engine.sequence import RunningSequence
from tests.engine.test_runner_oracle import (
    MAX_LOGIT_DIFFERENCE,
    NUM_GREEDY_TOKENS,
    is_greedy,
    load_oracle,
    oracle_logits,
    random_prompt,
)
from tests.model.rounded import rounded_folder
from tests.runners import new_runner

AT_LOAD = ("int8", "int4")
PLAIN = re.compile(
    r"(norm|norm_embedding|norm_hidden|conv|A_log|dt_bias|embed|router|shared_gate|in_proj\.1)$"
)


ALWAYS = [("mtp_dense", "int4"), ("mtp_moe", "int8")]
MORE = [("mtp_dense", "int8"), ("mtp_moe", "int4")]


@pytest.mark.parametrize(
    ("source", "quantization"),
    [*ALWAYS, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)],
)
def test_the_oracles_logits_and_greedy_tokens(
    source: str, quantization: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(source)
    oracle = load_oracle(rounded_folder(folder, tmp_path / "plain", quantization))
    plain = load_oracle(folder)
    prompt = random_prompt(100)

    runner = new_runner(folder, num_pages=40, num_slots=8, quantization=quantization)
    sequence = RunningSequence(runner, pages=range(40), slot=1)
    logits = sequence.prefill_all(prompt)
    tokens = sequence.greedy(logits[-1], NUM_GREEDY_TOKENS)

    assert (logits - oracle_logits(oracle, prompt)).abs().max() < MAX_LOGIT_DIFFERENCE
    assert is_greedy(oracle, prompt, tokens)
    assert (logits - oracle_logits(plain, prompt)).abs().max() > 10 * MAX_LOGIT_DIFFERENCE


@pytest.mark.parametrize("quantization", AT_LOAD)
@pytest.mark.parametrize("source", ["published_dense", "published_moe", "demo"])
def test_weights_take_the_predicted_memory(
    source: str, quantization: str, request: pytest.FixtureRequest
) -> None:
    folder = checkpoint_dir() if source == "demo" else request.getfixturevalue(source)
    engine = EngineConfig(quantization=quantization)
    served = ServedModel.of(folder, engine)

    weights = load_weights(
        folder,
        served.config,
        dtype=TORCH_DTYPES[served.dtype],
        device="cpu",
        quantization=quantization,
    )

    assert served.weight_bytes == sum(tensor.nbytes for tensor in weights.values())
    assert weights["lm_head"].dtype is torch.int8
    kinds = {name: tensor.dtype for name, tensor in weights.items() if f"{name}.scales" in weights}
    assert {"layers.0.in_proj.0", "layers.0.out_proj", "layers.3.qkv_proj"} <= kinds.keys()
    plain = weights.keys() - kinds.keys() - {f"{name}.scales" for name in kinds}
    assert [name for name in plain if not PLAIN.search(name)] == []
    assert served.weight_bytes < ServedModel.of(folder, EngineConfig()).weight_bytes


def test_each_rank_has_its_part_of_the_whole_models_groups(mtp_moe: Path) -> None:
    facts = check_folder(mtp_moe, skip_tokenizer=True)
    with pytest.raises(InvalidConfig, match="whose scales are for 32 columns each"):
        load_weights(
            mtp_moe,
            facts.config,
            dtype=torch.float32,
            device="cpu",
            rank=Rank(index=0, count=2),
            quantization="int4",
        )


def test_caches_of_other_numbers_have_another_id() -> None:
    folder = checkpoint_dir()
    layouts = [
        ServedModel.of(folder, EngineConfig(quantization=each)).layout
        for each in ("none", *AT_LOAD)
    ]

    assert len({layout.model_id for layout in layouts}) == 3
    assert {folder_id(layout.model_id) for layout in layouts} == {layouts[0].model_id}


def test_a_quantised_checkpoint_is_not_quantised_again(mtp_dense: Path, tmp_path: Path) -> None:
    quantize(mtp_dense, tmp_path / "fp8", "fp8")

    with pytest.raises(InvalidConfig, match=r"needs plain weights, and those of .* quantised .fp8"):
        ServedModel.of(tmp_path / "fp8", EngineConfig(quantization="int8"))


def test_an_estimate_before_the_download(tmp_path: Path) -> None:
    folder = checkpoint_dir()
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    published = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    for quantization in AT_LOAD:
        engine = EngineConfig(quantization=quantization)
        estimate = ServedModel.before_download(tmp_path, engine, published_bytes=published)
        exact = ServedModel.of(folder, engine)
        assert 0.8 * exact.weight_bytes < estimate.weight_bytes < 1.2 * exact.weight_bytes


def test_settings_that_cannot_be_served_are_refused() -> None:
    with pytest.raises(
        ValueError, match="quantization must be one of none, int8, int4, got 'int2'"
    ):
        EngineConfig(quantization="int2")
    with pytest.raises(ValueError, match='needs device = "cpu", got "cuda": on a GPU serve'):
        replace(EngineConfig(device="cuda"), quantization="int8")
    with pytest.raises(InvalidCheckpoint, match=r'has 7 columns, and .* even number: use "int8"'):
        rounded("layers.0.o_proj", torch.ones(2, 7), WeightFormat.INT4)
