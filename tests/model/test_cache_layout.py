from __future__ import annotations

from pathlib import Path

from segue.cache.layout import Unit
from segue.model.cache_layout import cache_layout
from segue.model.config import ModelConfig


def test_attention_layers_have_pages_and_the_others_have_slots(tiny_dense: Path) -> None:
    config = ModelConfig.from_folder(tiny_dense)

    layout = cache_layout(config, model_id="m", page_tokens=16, kv_dtype="bfloat16")

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

    layout = cache_layout(config, model_id="m", page_tokens=16, kv_dtype="bfloat16")

    by_group = {field.group: (field.shape, field.dtype) for field in layout.fields}
    assert by_group == {
        "kv": ((2, 16, 2, 32), "bfloat16"),
        "recurrent": ((4, 16, 24), "float32"),
        "conv": ((2 * 2 * 16 + 4 * 24, 3), "bfloat16"),
    }
    assert layout.page_bytes == 2 * 16 * 2 * 32 * 2
    assert layout.slot_bytes == 3 * (4 * 16 * 24 * 4 + 160 * 3 * 2)
