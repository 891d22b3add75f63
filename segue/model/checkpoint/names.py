"""Names of a checkpoint's tensors: which are read, which are skipped, and why. No torch."""

from __future__ import annotations

from segue.model.config import ModelConfig

TEXT_PREFIXES = ("model.language_model.", "model.")
VISION_PREFIXES = ("model.visual.", "visual.")
MTP_PREFIX = "mtp."


def reason_to_skip(name: str, config: ModelConfig) -> str:
    """Why the tensor is skipped; empty if it is read."""
    if name.startswith(VISION_PREFIXES):
        return "vision tower"
    if name.startswith(MTP_PREFIX) and config.num_mtp_layers == 0:
        return "draft layer that is not used"
    if name == "lm_head.weight" and config.tie_word_embeddings:
        return "head that is tied to the embedding"
    return ""
