"""What is said of weights before they are loaded is what they take when they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segue.demo import checkpoint_dir
from segue.model.checkpoint.loading import load_weights
from segue.model.checkpoint.preflight import check_folder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mtp", [True, False])
@pytest.mark.parametrize(
    "name", ["tiny_dense", "tiny_moe", "published_dense", "published_moe", "mtp_moe"]
)
def test_weights_take_what_was_said(
    name: str, mtp: bool, dtype: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(name)
    facts = check_folder(folder, skip_tokenizer=True)
    config = facts.config if mtp else replace(facts.config, num_mtp_layers=0)

    weights = load_weights(folder, config, dtype=DTYPES[dtype], device="cpu")

    loaded = {w.data_ptr(): w.numel() * w.element_size() for w in weights.values()}
    assert facts.weight_bytes(dtype, mtp=mtp, on_cpu=False) == sum(loaded.values())
    assert facts.has_mtp_layer == (name in ("published_dense", "published_moe", "mtp_moe"))


def test_on_a_cpu_large_float32_matrices_count_twice() -> None:
    """The demo's are too small for that."""
    demo = check_folder(checkpoint_dir())
    wide = replace(
        demo,
        tensors={
            name: replace(header, shape=(1024, 1024)) if "q_proj" in name else header
            for name, header in demo.tensors.items()
        },
    )
    num_wide = sum("q_proj" in name for name in demo.tensors)

    for facts, extra in ((demo, 0), (wide, num_wide * 1024 * 1024 * 4)):
        plain = facts.weight_bytes("float32", mtp=True, on_cpu=False)
        assert facts.weight_bytes("float32", mtp=True, on_cpu=True) - plain == extra
    assert wide.weight_bytes("bfloat16", mtp=True, on_cpu=True) == wide.weight_bytes(
        "bfloat16", mtp=True, on_cpu=False
    )
