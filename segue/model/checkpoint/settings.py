"""Settings for reading a model folder: section `[checkpoint]`, for router and workers."""

from __future__ import annotations

from dataclasses import dataclass

GENERATION_CONFIGS = ("auto", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    generation_config: str = "auto"
    """"auto": the folder's generation_config.json gives the defaults for what a client does not
    set. "none": that file is ignored, and sampling is greedy by default."""
    skip_tokenizer: bool = False
    """Serve token ids only, without a tokenizer: text and chats are rejected, answers have no text.
    Equal on all processes."""

    def __post_init__(self) -> None:
        if self.generation_config not in GENERATION_CONFIGS:
            raise ValueError(
                f'generation_config must be "auto" or "none", got "{self.generation_config}"'
            )


AS_PUBLISHED = CheckpointConfig()
"""Uses everything that the folder has."""
