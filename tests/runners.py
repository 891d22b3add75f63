"""Model runners with caches of given sizes, as a worker would load them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from segue.engine.batch import PrefillChunk
from segue.engine.config import EngineConfig
from segue.engine.runner import ModelRunner
from segue.engine.served_model import ServedModel


def new_runner(
    folder: Path,
    *,
    num_pages: int,
    num_slots: int,
    page_tokens: int = 16,
    dtype: str = "auto",
    device: str = "cpu",
    with_scratch: bool = False,
    quantization: str = "none",
) -> ModelRunner:
    engine = EngineConfig(
        dtype=dtype, device=device, page_tokens=page_tokens, quantization=quantization
    )
    served = ServedModel.of(folder, engine)
    return ModelRunner.load(
        served, num_pages=num_pages, num_slots=num_slots, with_scratch=with_scratch
    )


@torch.inference_mode()
def logits_of_all(runner: ModelRunner, chunk: PrefillChunk) -> Tensor:
    """Float32 logits [num_tokens, vocab_size] after every token of one chunk."""
    every_row_T = torch.arange(len(chunk.token_ids), device=runner.device)
    batch = replace(runner._pack([chunk]), logit_rows_R=every_row_T, last=None)
    return runner._model.forward(batch, runner.tensors, None)
