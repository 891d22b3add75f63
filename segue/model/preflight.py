"""What can be said of a model folder without torch, before any process is started for it."""

from __future__ import annotations

from pathlib import Path

from segue.errors import InvalidCheckpoint
from segue.model.checkpoint_json import read_object, section
from segue.model.config import ModelConfig

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"


def check_folder(folder: Path) -> ModelConfig:
    """The configuration of a folder whose files are all there. Raises InvalidCheckpoint."""
    config = ModelConfig.from_folder(folder)
    index = folder / INDEX_NAME
    if index.exists():
        files = {str(name) for name in section(read_object(index), "weight_map").values()}
    else:
        files = {SINGLE_NAME}
    if missing := sorted(name for name in files if not (folder / name).is_file()):
        hint = f"{INDEX_NAME} names them" if index.exists() else f"no {INDEX_NAME} either"
        raise InvalidCheckpoint(f"{folder} lacks the weights {missing} ({hint}); download it again")
    return config
