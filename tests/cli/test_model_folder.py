"""`segue serve` reports an unusable model in one line, before it starts anything."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.model.folders import HUGE_MOE, sparse_folder


def serve(run_here: Command, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_here("serve", *arguments, "--port", "0", "--no-http")


def huge(folder: Path) -> Path:
    return sparse_folder(folder, HUGE_MOE)


def gguf(folder: Path) -> Path:
    path = folder.with_suffix(".gguf")
    path.write_bytes(b"GGUF")
    return path


def pickles(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").touch()
    return folder


def adapter(folder: Path) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "a/b"}')
    return folder


def quantised(folder: Path) -> Path:
    config = {**HUGE_MOE, "quantization_config": {"quant_method": "gptq"}}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def another(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["Qwen3MoeForCausalLM"]}')
    return folder


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (huge, "InvalidConfig: weights 999 GiB × 2 workers, this "),
        (gguf, "InvalidCheckpoint: {} is a file with weights in GGUF"),
        (pickles, "InvalidCheckpoint: {} has weights as PyTorch pickles"),
        (adapter, "InvalidCheckpoint: {} is an adapter (LoRA) of a/b"),
        (quantised, "quantised weights (gptq) are not supported"),
        (another, "unsupported architecture Qwen3MoeForCausalLM; supported: Qwen3_5"),
        (empty, "InvalidCheckpoint: {} is empty"),
        (Path, "InvalidCheckpoint: no such model folder: {}"),
    ],
)
def test_a_model_that_cannot_be_served_is_named_before_ray_starts(
    run_here: Command, tmp_path: Path, make: type[Path], message: str
) -> None:
    model = make(tmp_path / "model")

    refused = serve(run_here, str(model))

    assert refused.returncode not in (0, None)
    assert message.format(model) in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "Ray" not in refused.stderr


def test_a_cache_that_does_not_fit_is_refused_with_a_size_that_does(
    run_here: Command, tmp_path: Path
) -> None:
    settings = tmp_path / "segue.toml"
    settings.write_text(f"[engine]\ncache_bytes = {1 << 42}\n")

    refused = serve(run_here, "--config", str(settings))

    assert refused.returncode not in (0, None)
    assert f"[engine] cache_bytes = {1 << 42} (4,096 GiB)" in refused.stderr
    assert 'would fit, and "auto" finds a number by itself' in refused.stderr


def test_the_value_of_auto_is_shown_with_the_configuration(run_here: Command) -> None:
    shown = serve(run_here, "--print-config")

    assert 'cache_bytes = "auto"' in shown.stdout
    assert "# memory: 2 workers × (weights 15 MiB + cache" in shown.stdout


def test_reading_a_folder_has_options(run_here: Command) -> None:
    shown = serve(run_here, "--print-config", "--generation-config", "none", "--skip-tokenizer")
    refused = serve(run_here, "--print-config", "--generation-config", "vllm")

    assert 'generation_config = "none"\nskip_tokenizer = true' in shown.stdout
    assert 'generation_config must be "auto" or "none", got "vllm"' in refused.stderr
