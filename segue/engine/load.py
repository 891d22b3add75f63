"""From a model's name and `[engine]` to a runner with its memory."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from segue.cache.layout import CacheLayout
from segue.engine.config import EngineConfig, PoolSizes, pool_sizes
from segue.engine.runner import ModelRunner
from segue.errors import InvalidConfig
from segue.model.cache_layout import cache_layout
from segue.model.config import ModelConfig
from segue.model.model_id import model_id
from segue.model.source import resolve_model
from segue.model.weights import has_mtp_layer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    folder: Path
    runner: ModelRunner
    sizes: PoolSizes


def load_runner(
    model: str, engine: EngineConfig, *, max_drafts: int = 0, with_scratch: bool = False
) -> LoadedModel:
    """`max_drafts`: of each running sequence, where the model can draft. `with_scratch`: see
    `ModelRunner.load`.

    Raises InvalidCheckpoint, and InvalidConfig when the memory does not suffice.
    """
    require_device(engine.device)
    if engine.num_threads:
        torch.set_num_threads(engine.num_threads)
    folder = resolve_model(model, with_weights=True)
    config = ModelConfig.from_folder(folder)
    layout = layout_of(folder, engine)
    can_draft = any(field.group == "hidden" for field in layout.fields)
    sizes = pool_sizes(
        layout,
        engine,
        max_context=config.max_position_embeddings,
        max_drafts=max_drafts if can_draft else 0,
    )
    runner = ModelRunner.load(
        folder,
        dtype=engine.dtype,
        device=engine.device,
        page_tokens=engine.page_tokens,
        num_pages=sizes.num_pages,
        num_slots=sizes.num_slots,
        mtp=engine.mtp,
        with_scratch=with_scratch,
    )
    logger.info(
        "memory set aside, of [engine] cache_bytes, max_running and the model's context",
        extra={
            "num_pages": sizes.num_pages,
            "page_tokens": engine.page_tokens,
            "num_slots": sizes.num_slots,
            "num_bytes": (
                sizes.num_pages * layout.page_bytes + sizes.num_slots * layout.slot_bytes
            ),
        },
    )
    return LoadedModel(folder=folder, runner=runner, sizes=sizes)


def require_device(device: str) -> None:
    """Raises InvalidConfig when it is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidConfig(
            '[engine] device = "cuda", but torch sees no GPU here: check the driver, '
            'CUDA_VISIBLE_DEVICES and that torch is a CUDA build, or set "cpu"'
        )


def layout_of(folder: Path, engine: EngineConfig) -> CacheLayout:
    """What a worker's cache consists of with these settings; no weights are read."""
    config = ModelConfig.from_folder(folder)
    return cache_layout(
        config,
        model_id=model_id(folder),
        page_tokens=engine.page_tokens,
        kv_dtype=config.dtype if engine.dtype == "auto" else engine.dtype,
        with_mtp=engine.mtp and has_mtp_layer(folder, config),
    )
