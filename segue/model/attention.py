"""Gated full attention: grouped heads over pages, queries and keys normed, output gated."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels.paged_attention import attend_prompts, attend_steps, write_pages
from segue.kernels.rms_norm import rms_norm
from segue.kernels.rotary import apply_rotary
from segue.model.batch import Batch
from segue.model.config import ModelConfig


class Attention:
    """T tokens, H hidden size, Q query heads, G key/value heads, X head dimension."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, Tensor], at: str) -> None:
        self._shape = config.attention
        self._eps = config.rms_norm_eps
        self._qkv_proj = weights[f"{at}.qkv_proj"]
        self._q_norm = weights[f"{at}.q_norm"]
        self._k_norm = weights[f"{at}.k_norm"]
        self._o_proj = weights[f"{at}.o_proj"]

    def __call__(
        self, x_TH: Tensor, batch: Batch, rotary: tuple[Tensor, Tensor], pages: Tensor
    ) -> Tensor:
        """The mixer's output [T, H]; the batch's keys and values are stored in `pages`."""
        q_TQX, gate_TQX, k_TGX, v_TGX = self._project(x_TH)
        q_TQX = apply_rotary(rms_norm(q_TQX, self._q_norm, eps=self._eps), *rotary)
        k_TGX = apply_rotary(rms_norm(k_TGX, self._k_norm, eps=self._eps), *rotary)
        write_pages(k_TGX, v_TGX, pages, pages_T=batch.pages_T, offsets_T=batch.offsets_T)
        out_TQX = self._attend(q_TQX, batch, pages) * gate_TQX.sigmoid()
        return F.linear(out_TQX.flatten(1), self._o_proj)

    def _project(self, x_TH: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        num_heads, num_kv_heads = self._shape.num_heads, self._shape.num_kv_heads
        heads_TNX = F.linear(x_TH, self._qkv_proj).view(len(x_TH), -1, self._shape.head_dim)
        q_gate, k_TGX, v_TGX = torch.split(
            heads_TNX, [2 * num_heads, num_kv_heads, num_kv_heads], dim=1
        )
        # A head's query and its output gate are neighbours.
        return q_gate[:, 0::2], q_gate[:, 1::2], k_TGX, v_TGX

    def _attend(self, q_TQX: Tensor, batch: Batch, pages: Tensor) -> Tensor:
        outputs = []
        if steps := batch.steps:
            outputs.append(
                attend_steps(
                    q_TQX[: batch.num_steps],
                    pages,
                    page_table_DP=steps.page_table_DP,
                    lengths_D=steps.lengths_D,
                )
            )
        if prompts := batch.prompts:
            outputs.append(
                attend_prompts(
                    q_TQX[batch.num_steps :],
                    pages,
                    cu_tokens_N1=prompts.cu_tokens_N1,
                    starts_N=prompts.starts_N,
                    page_table_NP=prompts.page_table_NP,
                )
            )
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
