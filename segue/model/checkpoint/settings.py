"""What can be set about reading a model folder: section `[checkpoint]`, for router and workers."""

from __future__ import annotations

from dataclasses import dataclass

GENERATION_CONFIGS = ("auto", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    generation_config: str = "auto"
    """"auto": a turn takes what its client left open from the folder's generation_config.json;
    "none": that file is ignored, and sampling is greedy unless asked for otherwise."""
    skip_tokenizer: bool = False
    """Serve token ids only, without a tokenizer: text and chats are refused, answers have no text.
    Equal on all processes."""

    def __post_init__(self) -> None:
        if self.generation_config not in GENERATION_CONFIGS:
            raise ValueError(
                f'generation_config must be "auto" or "none", got "{self.generation_config}"'
            )


AS_PUBLISHED = CheckpointConfig()
"""Everything that the folder has is used."""
