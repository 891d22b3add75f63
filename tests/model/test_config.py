from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segue.api.errors import InvalidCheckpoint
from segue.model.config import DenseConfig, LayerKind, ModelConfig, MoeConfig

FLAT: dict[str, Any] = {
    "architectures": ["Qwen3_5ForCausalLM"],
    "model_type": "qwen3_5_text",
    "vocab_size": 248320,
    "hidden_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 64,
    "linear_conv_kernel_dim": 4,
    "intermediate_size": 3584,
    "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-6,
    "dtype": "bfloat16",
    "eos_token_id": 248044,
    "tie_word_embeddings": True,
    "mtp_num_hidden_layers": 1,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10_000_000,
        "partial_rotary_factor": 0.25,
    },
}
MOE = {
    "architectures": ["Qwen3_5MoeForCausalLM"],
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 384,
}

WriteConfig = Callable[[dict[str, Any]], Path]


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    def write(config: dict[str, Any]) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return write


def test_a_flat_dense_config(write_config: WriteConfig) -> None:
    config = ModelConfig.from_folder(write_config(FLAT))

    assert config.vocab_size == 248320
    assert config.layer_types[:4] == (*[LayerKind.GDN] * 3, LayerKind.ATTENTION)
    assert config.num_layers == 8
    assert config.attention.rotary_dim == 64
    assert config.attention.rope_theta == 10_000_000
    assert config.gdn.conv_channels == 2 * 16 * 128 + 32 * 64
    assert config.mlp == DenseConfig(intermediate_size=3584)
    assert config.moe is None
    assert config.dtype == "bfloat16"
    assert config.tie_word_embeddings
    assert config.num_mtp_layers == 1


def test_a_multimodal_config_nests_the_same_under_text_config(write_config: WriteConfig) -> None:
    flat = ModelConfig.from_folder(write_config(FLAT))
    text = {k: v for k, v in FLAT.items() if k not in ("architectures", "tie_word_embeddings")}
    outer = {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "text_config": text,
        "tie_word_embeddings": True,
    }

    nested = ModelConfig.from_folder(write_config(outer))

    assert nested.architecture == "Qwen3_5ForConditionalGeneration"
    for field in ("attention", "gdn", "mlp", "layer_types", "dtype", "tie_word_embeddings"):
        assert getattr(nested, field) == getattr(flat, field)


def test_a_mixture_of_experts(write_config: WriteConfig) -> None:
    config = ModelConfig.from_folder(write_config({**FLAT, **MOE}))

    assert config.moe == MoeConfig(
        num_experts=256,
        experts_per_token=8,
        intermediate_size=512,
        shared_intermediate_size=384,
    )


def test_a_model_type_names_the_architecture_where_none_is_stated(
    write_config: WriteConfig,
) -> None:
    without = {k: v for k, v in FLAT.items() if k != "architectures"}

    config = ModelConfig.from_folder(write_config(without))

    assert config.architecture == "Qwen3_5ForCausalLM"


def test_older_names_mean_the_same(write_config: WriteConfig) -> None:
    old = {k: v for k, v in FLAT.items() if k not in ("dtype", "rope_parameters")}
    old |= {"torch_dtype": "bfloat16", "rope_theta": 10_000_000, "partial_rotary_factor": 0.25}
    old |= {"rope_scaling": {"type": "mrope"}}

    config = ModelConfig.from_folder(write_config(old))

    assert config == ModelConfig.from_folder(write_config(FLAT))


def test_without_a_dtype_nothing_is_lost(write_config: WriteConfig) -> None:
    config = ModelConfig.from_folder(write_config({**FLAT, "dtype": None}))

    assert config.dtype == "float32"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM.*supported: Qwen3_5ForCausal"),
        (
            {"architectures": [], "model_type": "gpt2"},
            "architecture gpt2; supported: Qwen3_5ForCausalLM",
        ),
        ({"architectures": [], "model_type": None}, "config.json names no architecture, neither"),
        ({"num_attention_heads": 7}, r"\(7\) must be a multiple of num_key_value_heads \(2\)"),
        ({"linear_num_value_heads": 17}, r"\(17\) must be a multiple of linear_num_key_heads"),
        ({"num_key_value_heads": 0}, "num_key_value_heads must be >= 1, got 0"),
        ({"hidden_size": None}, "hidden_size must be a number, got None"),
        ({"hidden_size": "big"}, "hidden_size must be a number, got 'big'"),
        ({"hidden_size": 10.5}, "hidden_size must be of type int, got 10.5"),
        ({"vocab_size": True}, "vocab_size must be a number, got True"),
        ({"max_position_embeddings": float("inf")}, "max_position_embeddings must be a number"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope type 'yarn'; supported: default"),
        ({"rope_parameters": {"partial_rotary_factor": 2}}, "partial_rotary_factor"),
        ({"rope_parameters": [1]}, "rope_parameters must be an object"),
        ({"layer_types": ["full_attention"]}, "1 entries for num_hidden_layers = 8"),
        ({"layer_types": ["sliding"] * 8}, "layer_types must be a list of"),
        ({"linear_conv_kernel_dim": 1}, "linear_conv_kernel_dim must be >= 2"),
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu', got 'gelu'"),
        ({"attention_bias": True}, "attention_bias is not supported"),
        ({"attn_output_gate": False}, "attn_output_gate must be true"),
        ({"dtype": "float8_e4m3fn"}, "dtype must be one of"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised weights"),
        ({**MOE, "num_experts_per_tok": 300}, r"num_experts_per_tok \(300\) must be at most"),
        ({**MOE, "num_experts": None}, "num_experts must be a number, got None"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(
    changes: dict[str, Any], message: str, write_config: WriteConfig
) -> None:
    folder = write_config({**FLAT, **changes})

    with pytest.raises(InvalidCheckpoint, match=message) as refusal:
        ModelConfig.from_folder(folder)

    assert str(folder / "config.json") in str(refusal.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"

    with pytest.raises(InvalidCheckpoint, match=re.escape(f"no such model folder: {missing}")):
        ModelConfig.from_folder(missing)


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match=r"has no config\.json"):
        ModelConfig.from_folder(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_a_config_that_is_not_an_object(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)

    with pytest.raises(InvalidCheckpoint, match=r"config\.json"):
        ModelConfig.from_folder(tmp_path)


def test_reading_a_model_folder_needs_no_torch(tiny_dense: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "import segue.model.cache_layout, segue.model.checkpoint.source\n"
        "from segue.model.config import ModelConfig\n"
        f"ModelConfig.from_folder(Path({str(tiny_dense)!r}))\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
