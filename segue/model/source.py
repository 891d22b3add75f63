"""From what a person calls a model to a folder on this machine. No torch."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from segue.demo import checkpoint_dir
from segue.errors import InvalidCheckpoint

TEXT_FILES = ["*.json", "*.jinja", "merges.txt"]
"""Config, tokenizer and chat template: all that a process without a model needs."""
WEIGHT_FILES = ["*.safetensors"]

DEMO = "demo"
"""The checkpoint that comes with the package."""


def resolve_model(model: str, *, with_weights: bool) -> Path:
    """The folder of the demo, a local path or a hub id, which is downloaded where needed.

    Raises InvalidCheckpoint when there is no such folder and the hub does not give it either.
    """
    if model == DEMO:
        return checkpoint_dir()
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if not _may_be_hub_id(model):
        raise InvalidCheckpoint(f"no such model folder: {folder}")
    patterns = TEXT_FILES + (WEIGHT_FILES if with_weights else [])
    try:
        return Path(snapshot_download(model, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InvalidCheckpoint(
            f"{model!r} is neither a folder here nor a model that the hub gives us: {reason}"
        ) from error


def _may_be_hub_id(model: str) -> bool:
    """A hub id is `name` or `owner/name`; anything else would be a question the hub refuses."""
    parts = model.split("/")
    return len(parts) <= 2 and all(part and part.strip(".~") for part in parts)
