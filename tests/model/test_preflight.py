"""The predicted size of weights is their size once they are loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segue.model.checkpoint.loading import load_weights
from segue.model.checkpoint.preflight import check_folder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mtp", [True, False])
@pytest.mark.parametrize(
    "name", ["tiny_dense", "tiny_moe", "published_dense", "published_moe", "mtp_moe"]
)
def test_weights_take_the_predicted_memory(
    name: str, mtp: bool, dtype: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(name)
    facts = check_folder(folder, skip_tokenizer=True)
    config = facts.config if mtp else replace(facts.config, num_mtp_layers=0)

    weights = load_weights(folder, config, dtype=DTYPES[dtype], device="cpu")

    loaded = {w.data_ptr(): w.numel() * w.element_size() for w in weights.values()}
    assert facts.weight_bytes(dtype, mtp=mtp) == sum(loaded.values())
    assert facts.has_mtp_layer == (name in ("published_dense", "published_moe", "mtp_moe"))
