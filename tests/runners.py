"""Model runners with caches of given sizes, as a worker would load them."""

from __future__ import annotations

from pathlib import Path

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
) -> ModelRunner:
    engine = EngineConfig(dtype=dtype, device=device, page_tokens=page_tokens)
    served = ServedModel.of(folder, engine)
    return ModelRunner.load(
        served, num_pages=num_pages, num_slots=num_slots, with_scratch=with_scratch
    )
