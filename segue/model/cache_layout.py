"""From a model's shape to the bytes of its pages and slots. No torch."""

from __future__ import annotations

from collections.abc import Iterator

from segue.cache.layout import CacheField, CacheLayout, Unit
from segue.model.config import LayerKind, ModelConfig


def cache_layout(
    config: ModelConfig, *, model_id: str, page_tokens: int, kv_dtype: str
) -> CacheLayout:
    """The layout of one worker's cache, fields in the order of the layers.

    `kv_dtype` is the dtype of activations too, and so of the convolution state: that state *is* the
    last inputs of the convolution, and a copy in the dtype they were computed in loses nothing. The
    recurrent state is a sum over the whole past and stays float32.

    An MTP layer, when one is served, is one more "kv" field, numbered after the last layer.
    """
    return CacheLayout(
        model_id=model_id,
        page_tokens=page_tokens,
        fields=tuple(_fields(config, page_tokens, kv_dtype)),
    )


def _fields(config: ModelConfig, page_tokens: int, kv_dtype: str) -> Iterator[CacheField]:
    attention, gdn = config.attention, config.gdn
    for layer, kind in enumerate(config.layer_types):
        if kind is LayerKind.ATTENTION:
            yield CacheField(
                group="kv",
                layer=layer,
                unit=Unit.PAGE,
                dtype=kv_dtype,
                shape=(2, page_tokens, attention.num_kv_heads, attention.head_dim),
            )
        else:
            yield CacheField(
                group="recurrent",
                layer=layer,
                unit=Unit.SLOT,
                dtype="float32",
                shape=(gdn.num_v_heads, gdn.k_dim, gdn.v_dim),
            )
            yield CacheField(
                group="conv",
                layer=layer,
                unit=Unit.SLOT,
                dtype=kv_dtype,
                shape=(gdn.conv_channels, gdn.conv_kernel - 1),
            )
