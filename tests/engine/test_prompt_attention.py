"""Prompts that FlashInfer computes, and the setting for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from segue.api.errors import InvalidConfig
from segue.engine.batch import DecodeChunk, PrefillChunk
from segue.engine.config import EngineConfig
from segue.engine.device import prompt_attention as choosing
from segue.engine.device.prompt_attention import prompt_attention
from segue.engine.runner import ModelRunner
from segue.engine.served_model import ServedModel
from segue.kernels.paged_attention.flashinfer import prompts
from segue.kernels.paged_attention.flashinfer.prompts import PromptAttention
from segue.kernels.paged_attention.flashinfer.suitable import AttentionShape, Gpu
from segue.parallel.rank import FIRST_OF_ONE
from tests.checkpoints import Variant, add_mtp_layer
from tests.conftest import MakeCheckpoint
from tests.engine.test_runner_oracle import random_prompt
from tests.kernels.flashinfer_semantics import PACKAGE, remembered_calls
from tests.runners import new_runner

H200 = Gpu(capability=(9, 0), num_multiprocessors=132)


def new_planning_runner(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModelRunner:
    """A runner on a CPU with a fake of the package, which has no kernel for CPUs."""
    monkeypatch.setattr(prompts, "package", lambda: PACKAGE)
    monkeypatch.setattr(prompts, "why_not", lambda shape, gpu: None)
    runner = new_runner(folder, num_pages=40, num_slots=8)
    attention = runner.config.attention
    shape = AttentionShape(
        num_heads=attention.num_heads,
        num_kv_heads=attention.num_kv_heads,
        head_dim=attention.head_dim,
        page_tokens=runner.layout.page_tokens,
        dtype=torch.float32,
        page_dtype=torch.float32,
    )
    runner._prompts = PromptAttention(shape, torch.device("cpu"), H200, always=True)
    return runner


@pytest.mark.parametrize("with_mtp", [False, True])
def test_each_pass_has_one_plan_and_the_same_logits(
    with_mtp: bool,
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With two attention layers."""
    folder, ids = make_checkpoint(Variant(changes={"num_hidden_layers": 8})), random_prompt(60)
    if with_mtp:
        folder = add_mtp_layer(folder, tmp_path / "mtp")
    first = PrefillChunk(token_ids=ids[:21], start=0, page_ids=[7, 2, 5], slot_in=None, slot_out=1)
    step = DecodeChunk(
        token_ids=ids[21:23], start=21, page_ids=[7, 2, 5], slot_in=1, slots_out=[1, 2]
    )
    other = PrefillChunk(token_ids=ids[30:], start=0, page_ids=[9, 8], slot_in=None, slot_out=3)
    passes: list[list[PrefillChunk | DecodeChunk]] = [[first], [other, step], [step]]
    plain = new_runner(folder, num_pages=40, num_slots=8)
    planning = new_planning_runner(folder, monkeypatch)

    with remembered_calls() as calls:
        for chunks in passes:
            logits = planning.forward(chunks)
            torch.testing.assert_close(logits, plain.forward(chunks), atol=2e-5, rtol=0)

    # The pass without a prompt has no plan.
    assert len(calls.of("plan")) == 2
    # Without an MTP layer, only the last rows attend in the last layer.
    assert len(calls.of("run")) == 2 * (2 if with_mtp else 1)
    assert planning.operators().endswith(", FlashInfer 0.0 (fa3) for prompts")


def served(folder: Path, setting: str, *, dtype: str = "bfloat16") -> ServedModel:
    engine = EngineConfig(device="cuda", prefill_attention=setting, dtype=dtype)
    return ServedModel.of(folder, engine)


def test_without_the_package_our_kernel_is_used_or_an_error_names_it(
    tiny_dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "is_installed", lambda: False)

    assert prompt_attention(served(tiny_dense, "auto"), FIRST_OF_ONE) is None
    assert prompt_attention(served(tiny_dense, "triton"), FIRST_OF_ONE) is None
    with pytest.raises(InvalidConfig, match=r"flashinfer-python.*pip install 'segue\[flashinfer\]"):
        prompt_attention(served(tiny_dense, "flashinfer"), FIRST_OF_ONE)


def test_an_unsupported_shape_is_reported(
    tiny_dense: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choosing, "is_installed", lambda: True)
    monkeypatch.setattr(Gpu, "of", lambda device: H200)

    assert prompt_attention(served(tiny_dense, "auto", dtype="float32"), FIRST_OF_ONE) is None
    assert caplog.records == [] or caplog.records[-1].levelname == "INFO"
    with pytest.raises(InvalidConfig, match=r"cannot be used here: queries must be in bfloat16"):
        prompt_attention(served(tiny_dense, "flashinfer", dtype="float32"), FIRST_OF_ONE)


def test_a_failed_trial_leaves_prompts_to_our_kernel(
    tiny_dense: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(attention: PromptAttention) -> None:
        raise RuntimeError("nvcc is missing")

    monkeypatch.setattr(choosing, "is_installed", lambda: True)
    monkeypatch.setattr(choosing, "try_out", fail)
    monkeypatch.setattr(choosing, "PromptAttention", lambda *args, **kwargs: "FlashInfer")
    monkeypatch.setattr(choosing, "why_not", lambda shape, gpu: None)
    monkeypatch.setattr(Gpu, "of", lambda device: H200)

    assert prompt_attention(served(tiny_dense, "auto"), FIRST_OF_ONE) is None
    assert [record.levelname for record in caplog.records][-1] == "WARNING"
    with pytest.raises(InvalidConfig, match="cannot be used here: nvcc is missing"):
        prompt_attention(served(tiny_dense, "flashinfer"), FIRST_OF_ONE)
    monkeypatch.setattr(choosing, "try_out", lambda attention: None)
    assert prompt_attention(served(tiny_dense, "auto"), FIRST_OF_ONE) == "FlashInfer"
    assert prompt_attention(served(tiny_dense, "triton"), FIRST_OF_ONE) is None


def test_the_setting_is_checked() -> None:
    with pytest.raises(ValueError, match=r"one of auto, triton, flashinfer, got 'fa3'"):
        EngineConfig(device="cuda", prefill_attention="fa3")
    with pytest.raises(ValueError, match=r'"flashinfer" needs device = "cuda", got "cpu"'):
        EngineConfig(prefill_attention="flashinfer")
