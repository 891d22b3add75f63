"""From a model's name or path to a folder on this machine, and how it is read. No torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segue.api.errors import InvalidCheckpoint
from segue.model.checkpoint.formats import refuse_file

logger = logging.getLogger(__name__)

TEXT_FILES = ["*.json", "*.jinja", "merges.txt"]
"""Config, tokenizer and chat template: enough for a process that does not load weights."""
WEIGHT_FILES = ["*.safetensors"]

_HUB_TIMEOUT_S = 10.0

DEMO = "demo"
"""The checkpoint that comes with the package."""
# Located by path: the package `segue.demo` trains this checkpoint, and serving does not need it.
_DEMO_FOLDER = Path(__file__).parents[2] / "demo" / "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    generation_config: str = "auto"
    """"auto": the folder's generation_config.json gives the defaults for what a client does not
    set. "none": that file is ignored, and sampling is greedy by default."""
    skip_tokenizer: bool = False
    """Serve token ids only, without a tokenizer: text and chats are rejected, answers have no text.
    Equal on all processes."""

    def __post_init__(self) -> None:
        if self.generation_config not in ("auto", "none"):
            raise ValueError(
                f'generation_config must be "auto" or "none", got "{self.generation_config}"'
            )


AS_PUBLISHED = CheckpointConfig()
"""Uses everything in the folder."""


def resolve_model(model: str, *, with_weights: bool) -> Path:
    """The folder for `demo`, a local path or a hub id, which is downloaded if needed.

    Raises InvalidCheckpoint if there is no such folder and it cannot be downloaded.
    """
    if model == DEMO:
        return _DEMO_FOLDER
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        refuse_file(folder)
    if not _may_be_hub_id(model):
        raise InvalidCheckpoint(
            f"no such model folder: {folder}; a model is a folder, a hub id (OWNER/NAME) or demo"
        )
    return _download(model, TEXT_FILES + (WEIGHT_FILES if with_weights else []))


def _download(model: str, patterns: list[str]) -> Path:
    # The import takes a third of a second, which a local folder should not pay for.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().removeprefix("Got: ").partition("\n")[0]
        raise InvalidCheckpoint(
            f"{model!r} is no local folder, and could not be downloaded from the hub: {reason}"
        ) from error


def is_local(model: str) -> bool:
    """Whether there is nothing to download: true for anything but a hub id."""
    return model == DEMO or Path(model).expanduser().exists() or not _may_be_hub_id(model)


def hub_files(model: str) -> Mapping[str, int] | None:
    """The files of a model on the hub, with their sizes. None if the hub does not answer or does
    not know the model.
    """
    from huggingface_hub import HfApi

    try:
        found = HfApi().model_info(model, files_metadata=True, timeout=_HUB_TIMEOUT_S)
    # The library's transport has its own errors. The download will report the cause.
    except Exception as error:
        logger.info("no file sizes from the hub", extra={"model": model, "error": repr(error)})
        return None
    return {file.rfilename: file.size or 0 for file in found.siblings or ()}


def _may_be_hub_id(model: str) -> bool:
    """A hub id is `name` or `owner/name`; the hub would reject anything else."""
    parts = model.split("/")
    return len(parts) <= 2 and all(part and part.strip(".~") for part in parts)
