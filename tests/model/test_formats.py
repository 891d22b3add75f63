"""The error for a model that cannot be served names its format, and what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from segue.api.errors import InvalidCheckpoint
from segue.demo import checkpoint_dir
from segue.model.checkpoint.formats import refuse_foreign, refuse_quantised
from segue.model.checkpoint.preflight import check_folder
from segue.model.checkpoint.source import resolve_model
from tests.model.folders import write_sparse

CONFIG = "config.json"


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A copy of the demo model, to be spoilt."""
    return Path(shutil.copytree(checkpoint_dir(), tmp_path / "model"))


def refused(folder: Path) -> str:
    with pytest.raises(InvalidCheckpoint) as refusal:
        check_folder(resolve_model(str(folder), with_weights=True))
    return str(refusal.value)


def with_files(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("x")
    return folder


def test_the_demo_is_a_model() -> None:
    facts = check_folder(checkpoint_dir())

    assert facts.has_mtp_layer
    assert facts.config.num_layers == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "m.gguf",
            b"GGUF....",
            "is a file with weights in GGUF, llama.cpp's format: serve the saf",
        ),
        ("model-q4", b"GGUF\x03\0\0\0", "is a file with weights in GGUF"),
        ("pytorch_model.bin", b"PK", "is a file with weights as PyTorch pickles"),
        ("model.safetensors", b"", "is one file of a model: give its folder"),
        ("notes.txt", b"hello", "is a file: give the folder of a model"),
    ],
)
def test_a_file_in_place_of_a_folder(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    assert message in refused(path)


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    assert "no such model folder" in refused(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "is empty: a model is config.json"),
        (("model-Q4_K_M.gguf", "README.md"), "has weights in GGUF, llama.cpp's format and no saf"),
        (("model-00001-of-00002.GGUF", CONFIG), "has weights in GGUF"),
        ((CONFIG, "pytorch_model.bin"), "has weights as PyTorch pickles and no safetensors: load"),
        (
            (CONFIG, "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"),
            "has weights as PyTorch pickles and no safetensors",
        ),
        (("consolidated.00.pth", "params.json"), "has weights as PyTorch pickles"),
        ((CONFIG, "tf_model.h5"), "has weights in another framework's format"),
        ((CONFIG, "model.onnx"), "has weights in another framework's format"),
        (("README.md",), "has no config.json"),
    ],
)
def test_a_folder_of_something_else(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    folder = with_files(tmp_path / "model", *names)

    assert message in refused(folder)


@pytest.mark.parametrize("inner", ["qwen", "snapshots/0a1b2c"])
def test_a_folder_around_a_model_names_the_model(tmp_path: Path, inner: str) -> None:
    model = tmp_path / "models" / inner
    shutil.copytree(checkpoint_dir(), model)

    assert f"but a folder in it has: give {model}" in refused(tmp_path / "models")


@pytest.mark.parametrize("weights", ["adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_names_its_base(tmp_path: Path, weights: str) -> None:
    folder = with_files(tmp_path / "lora", weights)
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen3.5-9B"})
    )

    message = refused(folder)

    assert "is an adapter (LoRA) of Qwen/Qwen3.5-9B, not a model" in message
    assert "merge_and_unload" in message


def test_a_whole_model_with_files_of_its_training_is_a_model(demo: Path) -> None:
    with_files(demo, "training_args.bin", "optimizer.pt", "model-Q8.gguf")
    (demo / "adapter_config.json").write_text("{}")

    assert check_folder(demo).has_mtp_layer


@pytest.mark.parametrize(
    ("section", "how"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq, 4 bits"),
        ({"quant_method": "gptq", "bits": 8}, "gptq, 8 bits"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "fp8 in the format e5m2"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "ModelOpt, W4A8_AWQ"),
        (
            {"quant_method": "compressed-tensors", "format": "pack-quantized"},
            "compressed-tensors, pack-quantized",
        ),
        ({"load_in_4bit": True}, "4bit"),
    ],
)
@pytest.mark.parametrize("is_inner", [False, True])
def test_quantised_weights_are_named(
    demo: Path, section: dict[str, object], how: str, is_inner: bool
) -> None:
    config = json.loads((demo / CONFIG).read_text())
    if is_inner:
        config = {"architectures": config["architectures"], "text_config": config}
    (config["text_config"] if is_inner else config)["quantization_config"] = section
    (demo / CONFIG).write_text(json.dumps(config))

    assert f"quantised weights ({how}) are not supported" in refused(demo)


def test_a_quantisation_that_is_null_is_none(demo: Path) -> None:
    config = json.loads((demo / CONFIG).read_text())
    (demo / CONFIG).write_text(json.dumps({**config, "quantization_config": None}))

    assert check_folder(demo)


@pytest.mark.parametrize(
    ("name", "how"), [("quantize_config.json", "GPTQ"), ("quant_config.json", "AWQ")]
)
def test_quantised_weights_that_another_file_names(demo: Path, name: str, how: str) -> None:
    with_files(demo, name)

    assert f"quantised weights ({how}, according to {name})" in refused(demo)


def test_weights_that_are_stored_quantised_despite_the_config(demo: Path) -> None:
    write_sparse(demo / "model.safetensors", {"model.norm.weight": ("F8_E4M3", (8,))})

    assert "quantised weights (stored as F8_E4M3)" in refused(demo)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_pointer_of_git_lfs(demo: Path, name: str) -> None:
    (demo / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")

    assert f"{name} is a Git LFS pointer" in refused(demo)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated or not safetensors"),
        (b"\xff" * 64, "truncated or not safetensors: its header would have"),
        (b"\x10" + bytes(7) + b"[1, 2, 3, 4, 5] ", "truncated or not safetensors"),
        (b"\x02" + bytes(7) + b"{]", "truncated or not safetensors"),
    ],
)
def test_weights_that_are_no_safetensors(demo: Path, content: bytes, message: str) -> None:
    (demo / "model.safetensors").write_bytes(content)

    assert message in refused(demo)


def test_weights_that_are_cut_off(demo: Path) -> None:
    path = demo / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])

    assert "is truncated: it has 15277052 of 15277152 bytes; download it again" in refused(demo)


def test_a_folder_without_a_tokenizer_names_the_flag_for_ids_only(demo: Path) -> None:
    (demo / "tokenizer.json").unlink()

    assert "has no tokenizer.json: add the one" in refused(demo)
    assert "--skip-tokenizer" in refused(demo)
    assert check_folder(demo, skip_tokenizer=True)
    with_files(demo, "vocab.json")
    assert "it has an older tokenizer format" in refused(demo)


def test_a_repository_is_judged_by_its_list_of_files() -> None:
    refuse_foreign([CONFIG, "model-00001-of-00002.safetensors"], "a/b")
    refuse_quantised([CONFIG])

    with pytest.raises(InvalidCheckpoint, match="a/b has weights in GGUF"):
        refuse_foreign(["Qwen3.5-9B-Q4_K_M.gguf", "README.md"], "a/b")
