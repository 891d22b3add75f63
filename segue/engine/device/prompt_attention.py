"""Chooses the kernel for the attention of prompts: FlashInfer's, if it is installed, or ours."""

from __future__ import annotations

import logging

import torch

from segue.api.errors import InvalidConfig
from segue.cache.layout import Unit
from segue.cache.tensors import TORCH_DTYPES
from segue.engine.config import FLASHINFER, TRITON
from segue.engine.served_model import ServedModel
from segue.kernels.paged_attention.flashinfer.prompts import PromptAttention, is_installed
from segue.kernels.paged_attention.flashinfer.suitable import AttentionShape, Gpu, why_not
from segue.kernels.paged_attention.flashinfer.trial import try_out
from segue.model.ranks.config import config_of_rank
from segue.parallel.rank import Rank

logger = logging.getLogger(__name__)

_SETTING = f'[engine] prefill_attention = "{FLASHINFER}"'


def prompt_attention(served: ServedModel, rank: Rank) -> PromptAttention | None:
    """FlashInfer's attention, after a trial; None: our kernel's. Raises InvalidConfig if the
    setting requires FlashInfer and it cannot be used."""
    if served.device != "cuda" or served.prefill_attention == TRITON:
        return None
    is_required = served.prefill_attention == FLASHINFER
    if not is_installed():
        if is_required:
            raise InvalidConfig(
                f"{_SETTING} needs the package flashinfer-python, which is not installed: pip "
                "install 'segue[flashinfer]', or leave the setting out"
            )
        return None
    shape, device = _shape(served, rank), torch.device("cuda")
    gpu = Gpu.of(device)
    try:
        attention = PromptAttention(shape, device, gpu, always=is_required)
        try_out(attention)
    except Exception as error:
        if is_required:
            raise InvalidConfig(f"{_SETTING} cannot be used here: {error}") from error
        level = logging.INFO if why_not(shape, gpu) else logging.WARNING
        logger.log(
            level,
            "FlashInfer is installed and not used",
            extra={"reason": str(error) or repr(error)},
        )
        return None
    logger.info("FlashInfer computes the attention of prompts", extra={"by": str(attention)})
    return attention


def _shape(served: ServedModel, rank: Rank) -> AttentionShape:
    attention = config_of_rank(served.config, rank).attention
    (kv_dtype,) = {field.dtype for field in served.layout.of_unit(Unit.PAGE)}
    return AttentionShape(
        num_heads=attention.num_heads,
        num_kv_heads=attention.num_kv_heads,
        head_dim=attention.head_dim,
        page_tokens=served.layout.page_tokens,
        dtype=TORCH_DTYPES[served.dtype],
        page_dtype=TORCH_DTYPES[kv_dtype],
    )
