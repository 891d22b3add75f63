from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from segue.api.errors import InvalidCheckpoint
from segue.model.checkpoint.loading import load_weights
from segue.model.checkpoint.tensors import open_checkpoint
from segue.model.config import ModelConfig
from segue.model.weights.table import WeightTable
from tests.checkpoints import Tensors, Variant, fuse_experts, publish
from tests.conftest import MakeCheckpoint

FOLDERS = ["tiny_dense", "tiny_moe", "published_dense", "published_moe"]

Edit = Callable[[Tensors], None]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return load_weights(folder, ModelConfig.from_folder(folder), dtype=dtype, device="cpu")


def edited(source: Path, folder: Path, edit: Edit) -> Path:
    """A copy of a single-file checkpoint with other tensors."""
    shutil.copytree(source, folder)
    tensors = load_file(source / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_element_of_every_target_comes_from_exactly_one_tensor(
    folder: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(folder)
    config = ModelConfig.from_folder(path)
    with open_checkpoint(path) as checkpoint:
        names = {
            name.removeprefix("model.language_model.").removeprefix("model.")
            for name in checkpoint.files
            if "visual" not in name
        }

    table = WeightTable.of(config, names)

    assert table.pieces.keys() == names
    uses = {name: torch.zeros(target.shape) for name, target in table.targets.items()}
    for piece in table.pieces.values():
        uses[piece.target][piece.index] += 1
    assert all((use == 1).all() for use in uses.values())


def test_stacked_rows_are_the_checkpoints_in_the_tables_order(tiny_dense: Path) -> None:
    tensors = load_file(tiny_dense / "model.safetensors")

    weights = load(tiny_dense)

    at = "model.layers.3.self_attn"
    parts = [tensors[f"{at}.{name}_proj.weight"] for name in "qkv"]
    assert torch.equal(weights["layers.3.qkv_proj"], torch.cat(parts))
    assert torch.equal(weights["embed"], tensors["model.embed_tokens.weight"])


@pytest.mark.parametrize("is_fused", [lambda layer: True, lambda layer: False])
def test_fused_and_separate_experts_are_the_same_weights(
    is_fused: Callable[[int], bool], tiny_moe: Path, published_moe: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_moe, tmp_path / "copy")
    tensors = fuse_experts(load_file(tiny_moe / "model.safetensors"), is_fused)
    save_file(tensors, tmp_path / "copy" / "model.safetensors")

    weights, mixed = load(tmp_path / "copy"), load(published_moe)

    assert all(torch.equal(tensor, mixed[name]) for name, tensor in weights.items())


def test_small_vectors_stay_float32_whatever_the_dtype(tiny_dense: Path) -> None:
    weights = load(tiny_dense, torch.bfloat16)

    assert weights["layers.0.A_log"].dtype is torch.float32
    assert weights["layers.0.mixer_norm"].dtype is torch.float32
    assert weights["layers.0.in_proj"].dtype is torch.bfloat16


def test_a_tied_head_is_the_embedding(make_checkpoint: MakeCheckpoint) -> None:
    weights = load(make_checkpoint(Variant(changes={"tie_word_embeddings": True})))

    assert weights["lm_head"] is weights["embed"]


def test_a_tied_checkpoint_that_repeats_its_embedding_is_read_once(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    def repeat(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    tied = make_checkpoint(Variant(changes={"tie_word_embeddings": True}))

    weights = load(edited(tied, tmp_path / "copy", repeat))

    assert weights["lm_head"] is weights["embed"]


def test_skipped_tensors_are_one_line_in_the_log(
    published_dense: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="segue.model.checkpoint.loading"):
        load(published_dense)

    (record,) = caplog.records
    assert record.__dict__["num_tensors"] == {"vision tower": 2}


def test_the_draft_layer_is_loaded_where_the_checkpoint_has_one(published_moe: Path) -> None:
    weights = load(published_moe)

    assert weights["mtp.fc"].shape == (64, 128)
    assert torch.equal(weights["mtp.layers.0.qkv_proj"], weights["layers.3.qkv_proj"])
    assert torch.equal(
        weights["mtp.layers.0.mlp.experts.down_proj"],
        weights["layers.3.mlp.experts.down_proj"],
    )


def test_a_config_that_promises_a_draft_layer_may_come_without_its_weights(
    tiny_dense: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_dense, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "mtp_num_hidden_layers": 1}))

    assert "mtp.fc" not in load(copy)


def test_a_draft_layer_that_the_config_does_not_know_is_skipped(
    published_dense: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(published_dense, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["mtp_num_hidden_layers"] = 0
    (copy / "config.json").write_text(json.dumps(config))

    assert "mtp.fc" not in load(copy)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), r"1 missing \(norm.weight\), 0 unexpected"),
        (
            lambda t: t.update({"model.extra.weight": torch.zeros(1)}),
            r"0 missing, 1 unexpected \(model.extra.weight\)",
        ),
        (
            lambda t: t.update({"model.language_model.norm.weight": torch.zeros(64)}),
            "are the same weight",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(65)}),
            r"model.norm.weight must be floats of shape \(64,\), got .* of shape \(65,\)",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(64, dtype=torch.int8)}),
            "model.norm.weight must be floats of shape .* got torch.int8",
        ),
    ],
    ids=["missing", "unexpected", "twice", "wrong shape", "wrong kind"],
)
def test_tensors_that_do_not_fit_are_named(
    edit: Edit, message: str, tiny_dense: Path, tmp_path: Path
) -> None:
    folder = edited(tiny_dense, tmp_path / "copy", edit)

    with pytest.raises(InvalidCheckpoint, match=message):
        load(folder)


def test_one_missing_expert_is_named(tiny_moe: Path, tmp_path: Path) -> None:
    name = "layers.2.mlp.experts.5.up_proj.weight"
    folder = edited(tiny_moe, tmp_path / "copy", lambda t: t.pop(f"model.{name}"))

    with pytest.raises(InvalidCheckpoint, match=rf"1 missing \({name}\)"):
        load(folder)


def test_a_folder_without_weights(tiny_dense: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_dense / "config.json", tmp_path)

    with pytest.raises(InvalidCheckpoint, match=r"lacks the weights model\.safetensors"):
        load(tmp_path)


def test_a_missing_shard_is_named(tiny_dense: Path, tmp_path: Path) -> None:
    folder = publish(tiny_dense, tmp_path / "published")
    (folder / "model-00002-of-00003.safetensors").unlink()

    with pytest.raises(InvalidCheckpoint, match=r"lacks the weights model-00002-of-00003"):
        load(folder)


@pytest.mark.parametrize("num_bytes", [0, 4, 1000, -100])
def test_a_truncated_shard_is_named(num_bytes: int, tiny_dense: Path, tmp_path: Path) -> None:
    folder = publish(tiny_dense, tmp_path / "published")
    shard = folder / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:num_bytes])

    with pytest.raises(InvalidCheckpoint, match=r"00002-of-00003.* is truncated"):
        load(folder)


def test_a_shard_that_lacks_what_the_index_promises(tiny_dense: Path, tmp_path: Path) -> None:
    folder = publish(tiny_dense, tmp_path / "published")
    shard = folder / "model-00002-of-00003.safetensors"
    tensors = load_file(shard)
    name, _ = tensors.popitem()
    save_file(tensors, shard)

    with pytest.raises(InvalidCheckpoint, match=rf"00002-of-00003.*lacks .*: {name}"):
        load(folder)


def test_a_tensor_in_two_shards(tiny_dense: Path, tmp_path: Path) -> None:
    folder = publish(tiny_dense, tmp_path / "published")
    first, second = (folder / f"model-0000{i}-of-00003.safetensors" for i in (1, 2))
    name, tensor = load_file(first).popitem()
    save_file({**load_file(second), name: tensor}, second)

    with pytest.raises(InvalidCheckpoint, match=f"in more than one file: .*{name}"):
        load(folder)


@pytest.mark.parametrize("index", ["{", '{"weight_map": [1]}'])
def test_an_index_that_cannot_be_read(index: str, tiny_dense: Path, tmp_path: Path) -> None:
    folder = publish(tiny_dense, tmp_path / "published")
    (folder / "model.safetensors.index.json").write_text(index)

    with pytest.raises(InvalidCheckpoint, match=r"weight_map|cannot be read as JSON"):
        load(folder)
