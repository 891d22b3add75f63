"""The weight formats of published configurations, module by module."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from segue.api.errors import InvalidCheckpoint
from segue.model.config import ModelConfig
from segue.model.weights.quantization import Quantization, WeightFormat, parse
from segue.model.weights.table import WeightTable

REAL = Path(__file__).parents[3] / "shared" / "data" / "qwen"
PLAIN, BLOCKS, FP8, NVFP4 = (
    WeightFormat.PLAIN,
    WeightFormat.FP8_BLOCKS,
    WeightFormat.FP8,
    WeightFormat.NVFP4,
)

NUM_QUANTIZED = {
    # Matrices of mixers, then of MLPs and experts, the head last.
    "Qwen3.5-122B-A10B": {NVFP4: 48 * 256 * 3},
    "Qwen3.5-397B-A17B": {NVFP4: 60 * 512 * 3},
    "Qwen3.6-27B": {FP8: 48 * 3 + 16 * 4, NVFP4: 64 * 3 + 1},
    "Qwen3.6-35B-A3B": {FP8: 30 * 3 + 10 * 4, NVFP4: 40 * (256 + 1) * 3 + 1},
}


def matrices(config: ModelConfig) -> list[str]:
    """Modules with a weight matrix, experts apart."""
    pieces = WeightTable.of(config, ["mtp.fc.weight"]).pieces
    return [
        name.removesuffix(".weight")
        for name, piece in pieces.items()
        if len(piece.shape) == 2 and not name.startswith("embed")
    ]


def folder_of(name: str, tmp_path: Path, *, beside: bool) -> Path:
    """A folder with a real configuration, or with the one that ModelOpt wrote beside it only."""
    source = REAL / "aiconfigurator" / f"nvidia--{name}-NVFP4_config.json"
    if not source.exists():
        pytest.skip(f"needs {source}")
    config = json.loads(source.read_text())
    if beside:
        del config["quantization_config"]
        second = source.with_name(source.name.replace("_config", "_hf_quant_config"))
        (tmp_path / "hf_quant_config.json").write_text(second.read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        *((name, False) for name in NUM_QUANTIZED),
        ("Qwen3.6-27B", True),
        ("Qwen3.5-122B-A10B", True),
    ],
)
def test_a_published_nvfp4_configuration(name: str, beside: bool, tmp_path: Path) -> None:
    config = ModelConfig.from_folder(folder_of(name, tmp_path, beside=beside))

    settings = config.quantization
    assert settings is not None
    formats = {module: settings.format_of(module) for module in matrices(config)}
    found = Counter(formats.values())
    expected = NUM_QUANTIZED[name]
    assert found == {**expected, PLAIN: len(formats) - sum(expected.values())}
    assert {
        module for module, stored in formats.items() if module.startswith("mtp.") and stored
    } == {module for module in formats if module.startswith("mtp.")}
    assert settings.format_of("layers.0.linear_attn.in_proj_a") is PLAIN
    assert settings.format_of("layers.3.mlp.shared_expert_gate") is PLAIN
    assert settings.format_of("mtp.fc") is PLAIN


def fp8_names(patterns: list[str], num_layers: int) -> Iterator[str]:
    """The names that the abridged list of the published FP8 configuration stands for."""
    for pattern in patterns:
        name = pattern.split(" ")[0]
        inner = re.search(r"{(.*)}", name)
        for part in inner[1].split(",") if inner else [""]:
            whole = name.replace(inner[0], part) if inner else name
            yield from (
                {whole.replace(".N.", f".{n}.") for n in range(num_layers)}
                if ".N." in whole
                else [whole]
            )


def test_the_published_fp8_configuration(tmp_path: Path) -> None:
    path = REAL / "fp8-qwen3.6-27b" / "quantization_config.abridged.json"
    if not path.exists():
        pytest.skip(f"needs {path}")
    section = json.loads(path.read_text())
    config = ModelConfig.from_folder(folder_of("Qwen3.6-27B", tmp_path, beside=False))
    plain = list(fp8_names(section["modules_to_not_convert_patterns"], 64))

    settings = parse({**section, "modules_to_not_convert": plain})

    formats = {module: settings.format_of(module) for module in matrices(config)}
    blocks = {module for module, stored in formats.items() if stored is BLOCKS}
    assert len(blocks) == 48 * 3 + 16 * 4 + 64 * 3 + 4 + 3
    assert not any(stored in (FP8, NVFP4) for stored in formats.values())
    assert {module for module in formats if re.search(r"in_proj_[ab]$", module)}.isdisjoint(blocks)
    assert "mtp.layers.0.mlp.down_proj" in blocks
    assert formats["lm_head"] is formats["mtp.fc"] is PLAIN


def of(**settings: object) -> Quantization:
    return parse({"quant_method": "modelopt", "quant_algo": "NVFP4", **settings})


@pytest.mark.parametrize(
    ("pattern", "excluded"),
    [
        ("model.language_model.layers.1.mlp.up_proj", ["layers.1.mlp.up_proj"]),
        ("model.layers.1.mlp", ["layers.1.mlp.up_proj"]),
        ("*.mlp.*", ["layers.1.mlp.up_proj", "layers.11.mlp.up_proj"]),
        ("layers.1*", ["layers.1.mlp.up_proj", "layers.11.mlp.up_proj"]),
        ("up_proj", ["layers.1.mlp.up_proj", "layers.11.mlp.up_proj"]),
        ("layers.1", ["layers.1.mlp.up_proj"]),
        ("proj", []),
    ],
)
def test_a_pattern_excludes(pattern: str, excluded: list[str]) -> None:
    modules = ["layers.1.mlp.up_proj", "layers.11.mlp.up_proj"]

    settings = of(ignore=[pattern])

    assert [module for module in modules if settings.format_of(module) is PLAIN] == excluded


def test_only_linear_layers_are_quantised() -> None:
    assert of().format_of("layers.0.mlp.gate") is PLAIN, "a router is no linear layer"
    assert of().format_of("embed_tokens") is PLAIN
    assert of().format_of("layers.0.mlp.experts.7.gate_proj") is NVFP4


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"quant_method": "fp8", "weight_block_size": [64, 64]}, r"must be \[128, 128\], got"),
        ({"quant_method": "modelopt"}, "ModelOpt, no quant_algo"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 32}, "got 32"),
        (
            {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": "lm_head"},
            "must be a list",
        ),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "which is empty"),
        (
            {
                "quant_method": "modelopt",
                "quant_algo": "MIXED_PRECISION",
                "quantized_layers": {"lm_head": {"quant_algo": "INT4_AWQ"}},
            },
            "ModelOpt, INT4_AWQ",
        ),
    ],
)
def test_what_cannot_be_served_is_refused(section: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidCheckpoint, match=message):
        parse(section)
