"""A whole model with keys and values in FP8, against itself with pages in the model's dtype."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from segue.api.errors import InvalidCheckpoint
from segue.cache.layout import Unit
from segue.cache.tensors import CacheTensors, copy_units
from segue.engine.config import EngineConfig
from segue.engine.runner import ModelRunner
from segue.engine.served_model import ServedModel
from segue.kernels.paged_attention.e4m3 import E4M3
from segue.model.checkpoint.model_id import model_id
from tests.engine.drafting import DraftingSequence, draft, verify
from tests.engine.sequence import RunningSequence
from tests.engine.test_runner_oracle import random_prompt

NUM_PAGES, NUM_SLOTS = 40, 8
MAX_ERROR = 0.02
"""Root mean square of the logits' differences, in units of the logits' standard deviation."""
AT = "model.layers.3.self_attn"


def runner_of(folder: Path, kv_dtype: str = "fp8", dtype: str = "float32") -> ModelRunner:
    served = ServedModel.of(folder, EngineConfig(dtype=dtype, kv_dtype=kv_dtype))
    return ModelRunner.load(served, num_pages=NUM_PAGES, num_slots=NUM_SLOTS)


def logits_of(runner: ModelRunner, prompt: list[int]) -> Tensor:
    return RunningSequence(runner, pages=range(20), slot=1).prefill_all(prompt)


def with_scales(folder: Path, copy: Path, scales: dict[str, float]) -> Path:
    shutil.copytree(folder, copy)
    tensors = load_file(folder / "model.safetensors")
    tensors |= {f"{AT}.{name}": torch.tensor(scale) for name, scale in scales.items()}
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).pow(2).mean().sqrt() / expected.std())


@pytest.mark.parametrize("source", ["mtp_dense", "mtp_moe"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_close_and_pages_have_half_the_bytes(
    source: str, dtype: str, request: pytest.FixtureRequest
) -> None:
    folder, prompt = request.getfixturevalue(source), random_prompt(200)
    plain, small = runner_of(folder, "auto", dtype), runner_of(folder, "fp8", dtype)

    error = relative_error(logits_of(small, prompt), logits_of(plain, prompt))

    assert 0 < error < MAX_ERROR
    assert small.layout.page_bytes * (4 if dtype == "float32" else 2) == plain.layout.page_bytes
    assert small.layout.slot_bytes == plain.layout.slot_bytes
    assert small.operators().endswith(", FP8 pages")
    stored = {field.dtype for field in small.layout.of_unit(Unit.PAGE)}
    assert stored == {"float8_e4m3fn"}


def test_another_worker_continues_with_the_same_tokens_even_after_the_host_tier(
    mtp_dense: Path,
) -> None:
    prompt = random_prompt(100)
    first, second = runner_of(mtp_dense), runner_of(mtp_dense)
    sequence = RunningSequence(first, pages=range(20), slot=1)
    logits = sequence.prefill(prompt, chunk_tokens=48)
    host = CacheTensors.allocate(first.layout, num_pages=10, num_slots=1, device="cpu")
    copy_units(first.tensors, host, Unit.PAGE, range(7), range(2, 9))
    copy_units(first.tensors, host, Unit.SLOT, [1], [0])
    copy_units(host, second.tensors, Unit.PAGE, range(2, 9), range(20, 27))
    copy_units(host, second.tensors, Unit.SLOT, [0], [3])

    other = RunningSequence(second, pages=range(20, 40), slot=3)
    other.take(prompt)

    assert other.greedy(logits[-1], 40) == sequence.greedy(logits[-1], 40)


def test_drafts_change_no_token_and_a_prompt_may_be_cut_anywhere(mtp_dense: Path) -> None:
    answers = []
    for num_drafts, chunk_tokens in ((0, 64), (0, 7), (3, 64)):
        runner = runner_of(mtp_dense)
        for field, tensor in runner.tensors.fields():
            # Unwritten memory is NaN.
            tensor.view(torch.uint8).fill_(0x7F if field.unit is Unit.PAGE else 0xFF)
        sequence = DraftingSequence(runner, range(20), range(6), random_prompt(70))
        sequence.prefill(chunk_tokens)
        while sequence.num_answered < 24:
            verify(runner, [sequence], draft(runner, [sequence], [num_drafts]))
        answers.append(sequence.tokens[: 70 + 24])

    assert answers[0] == answers[1] == answers[2]


def test_codes_are_scaled_by_the_checkpoints_scales(mtp_dense: Path, tmp_path: Path) -> None:
    """Values are small in this model, so that scale 1 loses many of them to the smallest codes."""
    scales = {"k_proj.k_scale": 0.04, "v_proj.v_scale": 0.004}
    scaled, prompt = with_scales(mtp_dense, tmp_path / "scaled", scales), random_prompt(200)
    plain = runner_of(mtp_dense, "auto")
    exact = logits_of(plain, prompt)

    runner = runner_of(scaled)
    assert relative_error(logits_of(runner, prompt), exact) < MAX_ERROR
    # Codes times scales are the keys and values.
    theirs = plain.tensors.of("kv", 3)[:12].float()
    ours = runner.tensors.of("kv", 3)[:12].float() * torch.tensor([0.04, 0.004]).view(1, 2, 1, 1, 1)
    for part in range(2):
        assert relative_error(ours[:, part], theirs[:, part]) < 0.04
    # Pages in the activations' dtype have none, and other layers scale 1.
    assert torch.equal(logits_of(runner_of(scaled, "auto"), prompt), exact)
    assert runner.tensors.of("kv", 4).dtype is E4M3
    assert runner.weight_bytes == plain.weight_bytes + 8
    assert model_id(scaled) != model_id(mtp_dense)


def test_other_scales_are_another_model(mtp_dense: Path, tmp_path: Path) -> None:
    """Its pages stand for other numbers, though all sampled bytes of the file may be equal."""
    folders = [
        with_scales(mtp_dense, tmp_path / f"{k}", {"k_scale": k, "v_scale": 1.0}) for k in (1.0, 2)
    ]

    assert model_id(folders[0]) != model_id(folders[1])


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ({"k_scale": 0.0, "v_scale": 1.0}, "must be finite and above 0, got 0.0 and 1.0"),
        ({"k_scale": 1.0, "v_scale": torch.inf}, "must be finite and above 0, got 1.0 and inf"),
        ({"k_scale": 1.0}, "1 missing .*self_attn.v_scale"),
    ],
)
def test_scales_that_cannot_be_used_are_refused(
    scales: dict[str, float], message: str, tiny_dense: Path, tmp_path: Path
) -> None:
    folder = with_scales(tiny_dense, tmp_path / "copy", scales)

    with pytest.raises(InvalidCheckpoint, match=message):
        runner_of(folder)


def test_a_checkpoint_may_quantise_keys_and_values_alone(mtp_dense: Path, tmp_path: Path) -> None:
    scales = {"k_proj.k_scale": 1.0, "v_proj.v_scale": 1.0}
    folder = with_scales(mtp_dense, tmp_path / "copy", scales)
    settings = {"quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8"}}
    (folder / "hf_quant_config.json").write_text(json.dumps(settings))
    prompt = random_prompt(50)

    assert torch.equal(
        logits_of(runner_of(folder), prompt), logits_of(runner_of(mtp_dense), prompt)
    )
