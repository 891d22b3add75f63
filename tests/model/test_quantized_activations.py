"""`[engine] quantize_activations`: quantised checkpoints against transformers with plain weights of
the same values, which rounds the inputs of a prompt's products as the checkpoint says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from scripts.quantize import LAYOUTS, quantize
from segue.api.errors import InvalidConfig
from segue.engine.config import EngineConfig
from segue.engine.runner import ModelRunner
from segue.engine.served_model import ServedModel
from segue.kernels.scaled_product import MOST_PLAIN_ROWS
from segue.model.checkpoint.loading import load_weights
from segue.model.checkpoint.model_id import folder_id
from segue.parallel.rank import Rank
from tests.checkpoints import Tensors
from tests.engine.sequence import RunningSequence
from tests.engine.test_runner_oracle import (
    MAX_LOGIT_DIFFERENCE,
    NUM_GREEDY_TOKENS,
    load_oracle,
    oracle_logits,
    random_prompt,
)
from tests.model.dequantized import dequantized_folder
from tests.model.quantized_inputs import round_inputs
from tests.model.test_quantized_checkpoints import edited

ON = EngineConfig(quantize_activations=True)


def runner_of(folder: Path, engine: EngineConfig = ON) -> ModelRunner:
    return ModelRunner.load(ServedModel.of(folder, engine), num_pages=40, num_slots=8)


def calibrated(tensors: Tensors) -> None:
    """Other scales for each matrix, near those that its inputs need."""
    scales = [name for name in tensors if name.endswith(".input_scale")]
    for number, name in enumerate(sorted(scales)):
        size = 0.5 if name.endswith(("down_proj.input_scale", "o_proj.input_scale")) else 4.0
        largest = 6 * 448 if f"{name[: -len('.input_scale')]}.weight_scale_2" in tensors else 448
        tensors[name] = torch.tensor(size / largest * (1 + number % 5 / 10))


def quantized(source: Path, folder: Path, layout: str) -> Path:
    quantize(source, folder / "rounded", layout)
    return edited(folder / "rounded", folder / "calibrated", calibrated)


def root_mean_square(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


ALWAYS = [("mtp_dense", "fp8"), ("mtp_moe", "nvfp4"), ("mtp_dense", "mixed")]
MORE = [
    (source, layout)
    for source in ("mtp_dense", "mtp_moe")
    for layout in LAYOUTS
    if (source, layout) not in ALWAYS
]


@pytest.mark.parametrize(
    ("source", "layout"),
    [*ALWAYS, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)],
)
def test_prompts_are_computed_with_rounded_inputs_and_steps_are_not(
    source: str, layout: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = quantized(request.getfixturevalue(source), tmp_path, layout)
    stored = load_file(folder / "model.safetensors")
    oracle = load_oracle(dequantized_folder(folder, tmp_path / "plain", torch.float32))
    prompt, chunk = random_prompt(200), MOST_PLAIN_ROWS + 22
    without = oracle_logits(oracle, prompt)
    round_inputs(oracle, stored, chunk)

    sequence = RunningSequence(runner_of(folder), pages=range(40), slot=1)
    first = sequence.prefill_all(prompt[:chunk])
    last = sequence.prefill(prompt[chunk:], chunk)[-1]
    tokens = sequence.greedy(last, NUM_GREEDY_TOKENS)

    # The rest of the prompt and the answer, in few rows, are computed with inputs as they are.
    exact = oracle_logits(oracle, [*prompt, *tokens])[:-1]
    best, chosen = exact[199:].max(-1).values, exact[199:].gather(1, torch.tensor(tokens)[:, None])
    error = root_mean_square(first - exact[:chunk])
    if layout == "fp8":
        # Each row has its own scale: if an input is halfway between two codes, a difference
        # of 1e-7 is one of a code, which other rows and layers see.
        assert error < 0.2 * root_mean_square(without[:chunk] - exact[:chunk])
        assert (best - chosen[:, 0]).max() < 0.1 * exact.std()
    else:
        assert (first - exact[:chunk]).abs().max() < MAX_LOGIT_DIFFERENCE
        assert (last - exact[199]).abs().max() < MAX_LOGIT_DIFFERENCE
        assert torch.equal(best, chosen[:, 0])
        assert (without - exact[:200]).abs().max() > 100 * MAX_LOGIT_DIFFERENCE


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_loaded(layout: str, mtp_moe: Path, tmp_path: Path) -> None:
    folder = quantized(mtp_moe, tmp_path, layout)
    served, off = (ServedModel.of(folder, engine) for engine in (ON, EngineConfig()))
    weights, plain = (
        load_weights(folder, each.config, dtype=torch.float32, device="cpu")
        for each in (served, off)
    )

    added = weights.keys() - plain.keys()
    assert served.weight_bytes == sum(tensor.nbytes for tensor in weights.values())
    assert served.layout.model_id != off.layout.model_id
    assert folder_id(served.layout.model_id) == off.layout.model_id
    assert {name.rpartition(".")[2] for name in added} == {"input_scales"}
    numbers = {name.removesuffix(".input_scales"): len(weights[name]) for name in added}
    experts = {
        f"layers.{i}.mlp.experts.{m}" for i in range(4) for m in ("gate_up_proj", "down_proj")
    }
    if layout == "fp8":
        assert experts | {"layers.0.in_proj.0", "layers.3.qkv_proj"} < numbers.keys()
        assert set(numbers.values()) == {0}, "scales are computed from the inputs"
    elif layout == "nvfp4":
        assert numbers.keys() == experts
        assert set(numbers.values()) == {16, 8}
    else:
        # Its experts and head are W4A16.
        assert not experts & numbers.keys()
        assert numbers["layers.3.qkv_proj"] == 3
        assert "lm_head" not in numbers


def test_a_rank_has_the_scales_of_its_experts(mtp_moe: Path, tmp_path: Path) -> None:
    folder = quantized(mtp_moe, tmp_path, "nvfp4")
    config = ServedModel.of(folder, ON).config
    name = "layers.0.mlp.experts.down_proj.input_scales"
    whole, second = (
        load_weights(folder, config, dtype=torch.float32, device="cpu", rank=rank)[name]
        for rank in (Rank(index=0, count=1), Rank(index=1, count=2, expert_groups=2))
    )

    assert torch.equal(second, whole[4:])


def test_a_plain_checkpoint_is_refused(tiny_dense: Path) -> None:
    with pytest.raises(InvalidConfig, match="quantize_activations needs weights in FP8 or NVFP4"):
        ServedModel.of(tiny_dense, ON)
