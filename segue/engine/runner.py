"""One model on one device, with its cache: chunks of sequences in, logits out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from segue.cache.layout import CacheLayout
from segue.cache.tensors import TORCH_DTYPES, CacheTensors
from segue.engine.batch import SequenceChunk, pack
from segue.errors import InvalidConfig
from segue.model.cache_layout import cache_layout
from segue.model.config import ModelConfig, model_id
from segue.model.qwen3_5 import Qwen3_5
from segue.model.weights import load_weights

logger = logging.getLogger(__name__)


class ModelRunner:
    """Owns weights and cache memory. Which pages and slots are whose is the caller's business.

    Not thread-safe: one forward pass at a time. Other threads may read cache memory that the pass
    under way does not write.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: dict[str, Tensor],
        layout: CacheLayout,
        tensors: CacheTensors,
        device: str,
    ) -> None:
        self.config = config
        self.layout = layout
        self.tensors = tensors
        self._weights = weights
        self._model = Qwen3_5(config, weights)
        self._device = device

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        dtype: str = "auto",
        device: str = "cpu",
        page_tokens: int,
        num_pages: int,
        num_slots: int,
    ) -> ModelRunner:
        """Load the checkpoint in `folder` and allocate its cache.

        `dtype` is that of weights, activations and pages; "auto" takes the checkpoint's. Raises
        InvalidCheckpoint when the folder cannot be loaded, InvalidConfig for an unknown dtype.
        """
        config = ModelConfig.from_folder(folder)
        name = config.dtype if dtype == "auto" else dtype
        if name not in TORCH_DTYPES:
            choices = ["auto", *TORCH_DTYPES]
            raise InvalidConfig(f"dtype must be one of {choices}, got {dtype!r}")
        weights = load_weights(folder, config, dtype=TORCH_DTYPES[name], device=device)
        layout = cache_layout(
            config, model_id=model_id(folder), page_tokens=page_tokens, kv_dtype=name
        )
        tensors = CacheTensors.allocate(
            layout, num_pages=num_pages, num_slots=num_slots, device=device
        )
        runner = cls(config, weights, layout, tensors, device)
        logger.info(
            "model loaded",
            extra={
                "folder": str(folder),
                "dtype": name,
                "device": device,
                "weight_bytes": runner.weight_bytes,
                "page_bytes": layout.page_bytes,
                "slot_bytes": layout.slot_bytes,
                "num_pages": num_pages,
                "num_slots": num_slots,
            },
        )
        return runner

    @property
    def weight_bytes(self) -> int:
        """Of all weights, the draft layer's included; a tied matrix counts once."""
        unique = {tensor.data_ptr(): tensor.nbytes for tensor in self._weights.values()}
        return sum(unique.values())

    @torch.inference_mode()
    def forward(
        self,
        chunks: Sequence[SequenceChunk],
        *,
        on_layer: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Float32 logits [len(chunks), vocab_size] after each chunk's last token.

        Pages and output slots of the chunks are written; nothing else in the cache is. When layer
        i has written all of them, `on_layer(i)` is called on this thread.
        """
        batch = pack(chunks, page_tokens=self.layout.page_tokens, device=self._device)
        x_TH = self._model.hidden(batch, self.tensors, on_layer)
        return self._model.logits(x_TH[batch.last_rows_B])

    @torch.inference_mode()
    def forward_all(self, chunk: SequenceChunk) -> Tensor:
        """Float32 logits [num_tokens, vocab_size] after every token of one chunk."""
        batch = pack([chunk], page_tokens=self.layout.page_tokens, device=self._device)
        return self._model.logits(self._model.hidden(batch, self.tensors, None))
