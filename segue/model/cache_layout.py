"""From a model's shape to the bytes of its pages and slots. No torch."""

from __future__ import annotations

from collections.abc import Iterator

from segue.api.errors import InvalidConfig
from segue.cache.layout import CacheField, CacheLayout, Unit
from segue.model.config import LayerKind, ModelConfig


def cache_layout(
    config: ModelConfig,
    *,
    model_id: str,
    page_tokens: int,
    kv_dtype: str,
    with_mtp: bool,
    dtype: str = "",
) -> CacheLayout:
    """The layout of one worker's cache, with fields in layer order.

    `kv_dtype` is that of keys and values; `dtype` that of activations, by default the same. The
    convolution state has the dtype of activations: it consists of the convolution's last inputs, so
    this loses nothing. The recurrent state is a sum over the whole past and stays float32.

    `with_mtp`: an MTP layer is served. Its fields are numbered after the last layer: keys and
    values in pages, and in each slot the final hidden state of the last token in the slot's state,
    from which drafting continues. Raises InvalidConfig if the checkpoint has more than one MTP
    layer.
    """
    dtypes = (dtype or kv_dtype, kv_dtype)
    fields = list(_fields(config, page_tokens, *dtypes))
    if with_mtp:
        fields += _mtp_fields(config, page_tokens, *dtypes)
    return CacheLayout(model_id=model_id, page_tokens=page_tokens, fields=tuple(fields))


def _fields(
    config: ModelConfig, page_tokens: int, dtype: str, kv_dtype: str
) -> Iterator[CacheField]:
    gdn = config.gdn
    for layer, kind in enumerate(config.layer_types):
        if kind is LayerKind.ATTENTION:
            yield _kv(config, layer, page_tokens, kv_dtype)
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
                dtype=dtype,
                shape=(gdn.conv_channels, gdn.conv_kernel - 1),
            )


def _mtp_fields(
    config: ModelConfig, page_tokens: int, dtype: str, kv_dtype: str
) -> Iterator[CacheField]:
    if config.num_mtp_layers != 1:
        raise InvalidConfig(
            f"drafting supports only one MTP layer, but mtp_num_hidden_layers is "
            f"{config.num_mtp_layers}: set [engine] mtp = false"
        )
    layer = config.num_layers
    yield CacheField(
        group="hidden", layer=layer, unit=Unit.SLOT, dtype=dtype, shape=(config.hidden_size,)
    )
    yield _kv(config, layer, page_tokens, kv_dtype)


def _kv(config: ModelConfig, layer: int, page_tokens: int, kv_dtype: str) -> CacheField:
    attention = config.attention
    return CacheField(
        group="kv",
        layer=layer,
        unit=Unit.PAGE,
        dtype=kv_dtype,
        shape=(2, attention.num_kv_heads, page_tokens, attention.head_dim),
    )
