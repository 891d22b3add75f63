from __future__ import annotations

import shutil
from pathlib import Path

from segue.model.checkpoint.model_id import model_id


def test_it_is_the_same_for_a_copy(tiny_dense: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_dense, tmp_path / "copy")

    assert model_id(copy) == model_id(tiny_dense)


def test_it_differs_for_other_weights_of_the_same_shape(tiny_dense: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_dense, tmp_path / "copy")
    weights = copy / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    changed[len(changed) // 2] ^= 1
    weights.write_bytes(changed)

    assert model_id(copy) != model_id(tiny_dense)


def test_it_differs_for_another_config(tiny_dense: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_dense, tmp_path / "copy")
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")

    assert model_id(copy) != model_id(tiny_dense)
