from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from segue.api.errors import InvalidConfig
from segue.cache.layout import Unit
from segue.model.cache_layout import cache_layout
from segue.model.config import ModelConfig


def test_attention_layers_have_pages_and_the_others_have_slots(tiny_dense: Path) -> None:
    config = ModelConfig.from_folder(tiny_dense)

    layout = cache_layout(config, model_id="m", page_tokens=16, kv_dtype="bfloat16", with_mtp=False)

    assert [(f.group, f.layer, f.unit) for f in layout.fields] == [
        ("recurrent", 0, Unit.SLOT),
        ("conv", 0, Unit.SLOT),
        ("recurrent", 1, Unit.SLOT),
        ("conv", 1, Unit.SLOT),
        ("recurrent", 2, Unit.SLOT),
        ("conv", 2, Unit.SLOT),
        ("kv", 3, Unit.PAGE),
    ]


def test_shapes_and_dtypes_are_the_models(tiny_dense: Path) -> None:
    config = ModelConfig.from_folder(tiny_dense)

    layout = cache_layout(config, model_id="m", page_tokens=16, kv_dtype="bfloat16", with_mtp=False)

    by_group = {field.group: (field.shape, field.dtype) for field in layout.fields}
    assert by_group == {
        "kv": ((2, 2, 16, 32), "bfloat16"),
        "recurrent": ((4, 16, 24), "float32"),
        "conv": ((2 * 2 * 16 + 4 * 24, 3), "bfloat16"),
    }
    assert layout.page_bytes == 2 * 16 * 2 * 32 * 2
    assert layout.slot_bytes == 3 * (4 * 16 * 24 * 4 + 160 * 3 * 2)


def test_an_mtp_layer_has_pages_and_a_hidden_state_after_all_other_layers(mtp_dense: Path) -> None:
    config = ModelConfig.from_folder(mtp_dense)

    plain, layout = (
        cache_layout(config, model_id="m", page_tokens=16, kv_dtype="bfloat16", with_mtp=with_mtp)
        for with_mtp in (False, True)
    )

    *others, hidden, kv = layout.fields
    assert tuple(others) == plain.fields
    assert (hidden.group, hidden.layer, hidden.unit) == ("hidden", 4, Unit.SLOT)
    assert (hidden.shape, hidden.dtype) == ((64,), "bfloat16")
    assert kv == replace(plain.of_unit(Unit.PAGE)[0], layer=4)


def test_more_mtp_layers_than_one_are_refused_with_a_way_out(mtp_dense: Path) -> None:
    config = replace(ModelConfig.from_folder(mtp_dense), num_mtp_layers=2)

    with pytest.raises(InvalidConfig, match=r"is 2: set \[engine\] mtp = false"):
        cache_layout(config, model_id="m", page_tokens=16, kv_dtype="float32", with_mtp=True)
