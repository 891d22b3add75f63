"""Quantised checkpoints against transformers with plain weights of the same values."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scripts.quantize import LAYOUTS, quantize
from segue.api.errors import InvalidCheckpoint
from segue.kernels.quantized_product import Format
from segue.model.checkpoint.loading import load_weights
from segue.model.checkpoint.preflight import check_folder
from segue.model.config import ModelConfig
from segue.model.weight import QuantizedWeight, StackedWeight, weight_of
from tests.checkpoints import Tensors
from tests.engine.sequence import RunningSequence
from tests.engine.test_runner_oracle import (
    MAX_BFLOAT16_ERROR,
    MAX_LOGIT_DIFFERENCE,
    NUM_GREEDY_TOKENS,
    is_greedy,
    load_oracle,
    load_runner,
    oracle_logits,
    random_prompt,
)
from tests.model.dequantized import dequantized_folder

MakeQuantized = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def make_quantized(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> MakeQuantized:
    made: dict[tuple[str, str], Path] = {}

    def make(source: str, layout: str) -> Path:
        if (source, layout) not in made:
            folder = tmp_path_factory.mktemp("quantized") / f"{source}-{layout}"
            quantize(request.getfixturevalue(source), folder, layout)
            made[source, layout] = folder
        return made[source, layout]

    return make


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("source", ["mtp_dense", "mtp_moe"])
def test_the_oracles_logits_and_greedy_tokens(
    source: str, layout: str, make_quantized: MakeQuantized, tmp_path: Path
) -> None:
    folder = make_quantized(source, layout)
    oracle = load_oracle(dequantized_folder(folder, tmp_path / "plain", torch.float32))
    prompt = random_prompt(200)

    sequence = RunningSequence(load_runner(folder), pages=range(40), slot=1)
    logits = sequence.prefill_all(prompt)
    tokens = sequence.greedy(logits[-1], NUM_GREEDY_TOKENS)

    assert (logits - oracle_logits(oracle, prompt)).abs().max() < MAX_LOGIT_DIFFERENCE
    assert is_greedy(oracle, prompt, tokens)


def test_in_bfloat16(make_quantized: MakeQuantized, tmp_path: Path) -> None:
    folder = make_quantized("mtp_moe", "mixed")
    oracle = load_oracle(dequantized_folder(folder, tmp_path / "plain", torch.float32))
    prompt = random_prompt(100)

    sequence = RunningSequence(load_runner(folder, dtype="bfloat16"), pages=range(40), slot=1)
    error = sequence.prefill_all(prompt) - (exact := oracle_logits(oracle, prompt))

    assert error.pow(2).mean().sqrt() < MAX_BFLOAT16_ERROR * exact.std()


@pytest.mark.parametrize("mtp", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("source", ["published_dense", "published_moe"])
def test_weights_take_the_predicted_memory(
    source: str, layout: str, mtp: bool, make_quantized: MakeQuantized
) -> None:
    facts = check_folder(make_quantized(source, layout), skip_tokenizer=True)
    config = facts.config
    if not mtp:
        config = ModelConfig(**{**_fields(config), "num_mtp_layers": 0})

    weights = load_weights(
        make_quantized(source, layout), config, dtype=torch.bfloat16, device="cpu"
    )

    assert facts.weight_bytes("bfloat16", mtp=mtp) == sum(w.nbytes for w in weights.values())


def _fields(config: ModelConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in ModelConfig.__slots__}


def test_projections_that_are_stored_differently_are_stacked(make_quantized: MakeQuantized) -> None:
    folder = make_quantized("mtp_dense", "fp8")
    config = ModelConfig.from_folder(folder)
    weights = load_weights(folder, config, dtype=torch.float32, device="cpu")
    x = torch.randn(3, config.hidden_size)

    in_proj = weight_of(weights, "layers.0.in_proj")
    qkv_proj = weight_of(weights, "layers.3.qkv_proj")

    assert isinstance(in_proj, StackedWeight), "FP8 for qkv and z, plain for the gates' inputs"
    assert isinstance(qkv_proj, QuantizedWeight)
    assert qkv_proj.format is Format.FP8
    for weight in (in_proj, qkv_proj):
        whole = weight.matmul(x)
        for start, end in ((0, 5), (90, 170), (190, whole.shape[1])):
            assert torch.equal(weight.rows(start, end).matmul(x), whole[:, start:end])


def edited(folder: Path, copy: Path, edit: Callable[[Tensors], None]) -> Path:
    shutil.copytree(folder, copy)
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


AT = "model.layers.0.mlp.experts.0.up_proj.weight"


def without_second_scale(tensors: Tensors) -> None:
    del tensors[f"{AT}_scale_2"]


def without_scale(tensors: Tensors) -> None:
    del tensors[f"{AT}_scale"]


def with_scales_of_another_shape(tensors: Tensors) -> None:
    tensors[f"{AT}_scale"] = tensors[f"{AT}_scale"][:, :-1].clone()


def with_one_plain_expert(tensors: Tensors) -> None:
    for name in (f"{AT}_scale", f"{AT}_scale_2"):
        del tensors[name]
    tensors[AT] = torch.zeros(32, 64)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (without_second_scale, "must all be stored alike"),
        (without_scale, "1 missing .*up_proj.weight_scale"),
        (with_scales_of_another_shape, r"must be torch.float8_e4m3fn of shape \(32, 4\)"),
        (with_one_plain_expert, "the experts under .* must all be stored alike"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    edit: Callable[[Tensors], None], message: str, make_quantized: MakeQuantized, tmp_path: Path
) -> None:
    folder = edited(make_quantized("mtp_moe", "nvfp4"), tmp_path / "copy", edit)

    with pytest.raises(InvalidCheckpoint, match=message):
        load_runner(folder)


def test_the_stored_formats_override_the_configuration(
    make_quantized: MakeQuantized, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_quantized("mtp_dense", "fp8")
    folder = edited(source, tmp_path / "copy", lambda tensors: None)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["modules_to_not_convert"] = []
    (folder / "config.json").write_text(json.dumps(config))

    with caplog.at_level(logging.WARNING, logger="segue.model.weights.stored"):
        runner = load_runner(folder)

    (record,) = caplog.records
    # The head, the draft layer's projection, and two gates of each of three layers.
    assert record.__dict__["weights"].startswith("8 differ (layers.0.linear_attn.in_proj_a.weight")
    assert runner.weight_bytes == load_runner(source).weight_bytes


def test_the_script_refuses_widths_that_nvfp4_cannot_have(tiny_dense: Path, tmp_path: Path) -> None:
    def narrow(tensors: Tensors) -> None:
        tensors["model.layers.0.mlp.down_proj.weight"] = torch.zeros(64, 90)

    with pytest.raises(InvalidCheckpoint, match="90 columns: NVFP4 needs a multiple of 16"):
        quantize(edited(tiny_dense, tmp_path / "copy", narrow), tmp_path / "new", "nvfp4")
