"""Gated full attention: grouped-query heads over pages, normed queries and keys, gated output."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from segue.api.errors import InvalidCheckpoint
from segue.kernels.attention_input import attention_input, store_keys_and_values
from segue.kernels.gates import sigmoid_gate
from segue.kernels.paged_attention import attend_decode, attend_prefill, attend_verify
from segue.kernels.paged_attention.e4m3 import E4M3, UNSCALED, Scales
from segue.model.batch import Batch, DecodeRows, DraftBatch, PrefillRows, Rotary
from segue.model.config import ModelConfig
from segue.model.weight import weight_of


class Attention:
    """T tokens, H hidden size, Q query heads, G key/value heads, X head dimension."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, Tensor], at: str) -> None:
        shape = config.attention
        self._eps = config.rms_norm_eps
        self._qkv_proj = weight_of(weights, f"{at}.qkv_proj")
        # Each query head's query and output gate; then all keys, then all values.
        q_end = 2 * shape.num_heads * shape.head_dim
        self._kv_proj = self._qkv_proj.rows(q_end, q_end + 2 * shape.num_kv_heads * shape.head_dim)
        self._q_norm = weights[f"{at}.q_norm"]
        self._k_norm = weights[f"{at}.k_norm"]
        self._o_proj = weight_of(weights, f"{at}.o_proj")
        self._kv_scales = _kv_scales(weights, at)

    def __call__(self, x_TH: Tensor, batch: Batch, rotary: Rotary, pages: Tensor) -> Tensor:
        """The mixer's output [T, H]. Stores the batch's keys and values in `pages`."""
        q_TQX, gate_TQX = self._project(x_TH, rotary, pages, batch)
        return self._output(self._attend(q_TQX, batch, pages), gate_TQX)

    def store(self, x_TH: Tensor, batch: Batch, rotary: Rotary, pages: Tensor) -> None:
        """Only stores keys and values, for rows whose output is not used."""
        store_keys_and_values(
            self._kv_proj.matmul(x_TH),
            self._k_norm,
            *rotary,
            pages,
            pages_T=batch.pages_T,
            offsets_T=batch.offsets_T,
            eps=self._eps,
            scales=self._scales_of(pages),
        )

    def draft(self, x_DH: Tensor, batch: DraftBatch) -> Tensor:
        """As `__call__`, for one token per sequence in an MTP layer, which has no position 0."""
        q_DQX, gate_DQX = self._project(x_DH, batch.rotary, batch.pages, batch)
        out_DQX = attend_decode(
            q_DQX,
            batch.pages,
            page_table_DP=batch.page_table_DP,
            lengths_D=batch.lengths_D,
            first_position=1,
            scales=self._scales_of(batch.pages),
        )
        return self._output(out_DQX, gate_DQX)

    def _project(
        self, x_TH: Tensor, rotary: Rotary, pages: Tensor, batch: Batch | DraftBatch
    ) -> tuple[Tensor, Tensor]:
        """Queries and output gates [T, Q, X]. Stores keys and values in their pages."""
        return attention_input(
            self._qkv_proj.matmul(x_TH),
            self._q_norm,
            self._k_norm,
            *rotary,
            pages,
            pages_T=batch.pages_T,
            offsets_T=batch.offsets_T,
            eps=self._eps,
            scales=self._scales_of(pages),
        )

    def _output(self, out_TQX: Tensor, gate_TQX: Tensor) -> Tensor:
        return self._o_proj.matmul(sigmoid_gate(out_TQX, gate_TQX).flatten(1))

    def _attend(self, q_TQX: Tensor, batch: Batch, pages: Tensor) -> Tensor:
        outputs, scales = [], self._scales_of(pages)
        if decode := batch.decode:
            outputs.append(_attend_decode(q_TQX[: decode.num_tokens], decode, pages, scales))
        if prefill := batch.prefill:
            q_prefill_TQX = q_TQX[batch.num_decode_tokens :]
            outputs.append(_attend_prefill(q_prefill_TQX, prefill, pages, scales))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _scales_of(self, pages: Tensor) -> Scales:
        """Only pages in e4m3 hold scaled keys and values."""
        return self._kv_scales if pages.dtype is E4M3 else UNSCALED


def _attend_prefill(q_TQX: Tensor, prefill: PrefillRows, pages: Tensor, scales: Scales) -> Tensor:
    if prefill.attend is not None:
        assert scales == UNSCALED, "only pages in the dtype of queries are planned"
        return prefill.attend(q_TQX, pages)
    return attend_prefill(
        q_TQX,
        pages,
        cu_tokens_N1=prefill.cu_tokens_N1,
        starts_N=prefill.starts_N,
        page_table_NP=prefill.page_table_NP,
        scales=scales,
    )


def _attend_decode(q_TQX: Tensor, decode: DecodeRows, pages: Tensor, scales: Scales) -> Tensor:
    table_DP, lengths_D = decode.page_table_DP, decode.lengths_D
    if len(decode.round_sizes) == 1:
        return attend_decode(
            q_TQX, pages, page_table_DP=table_DP, lengths_D=lengths_D, scales=scales
        )
    return attend_verify(
        q_TQX,
        pages,
        page_table_DP=table_DP,
        lengths_D=lengths_D,
        round_sizes=decode.round_sizes,
        scales=scales,
    )


def _kv_scales(weights: Mapping[str, Tensor], at: str) -> Scales:
    """The checkpoint's scales of keys and values in e4m3, if it has any. Raises InvalidCheckpoint
    unless they are finite and positive."""
    if (stored := weights.get(f"{at}.kv_scales")) is None:
        return UNSCALED
    k_scale, v_scale = stored.tolist()
    if not all(math.isfinite(scale) and scale > 0 for scale in (k_scale, v_scale)):
        raise InvalidCheckpoint(
            f"{at}: k_scale and v_scale must be finite and above 0, got {k_scale} and {v_scale}; "
            'remove them, or serve with [engine] kv_dtype = "auto" from a copy without them'
        )
    return k_scale, v_scale
