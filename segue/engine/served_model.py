"""A checkpoint and `[engine]` composed into one model description, before any weight is read.

folder ─▶ FolderFacts ──┐
[engine] ───────────────┴─▶ ServedModel ─▶ WorkerNeed ─▶ planned memory
                                 └─────────▶ ModelRunner
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from segue.api.errors import InvalidConfig
from segue.cache.layout import DTYPE_BYTES, CacheLayout
from segue.cache.parts import layout_of_rank
from segue.engine.budget import WorkerNeed
from segue.engine.config import AUTO, EngineConfig
from segue.model.cache_layout import cache_layout
from segue.model.checkpoint.model_id import model_id, quantised_id
from segue.model.checkpoint.preflight import check_folder
from segue.model.config import ModelConfig
from segue.model.ranks.config import config_of_rank
from segue.model.weights.at_load import HEAD, NONE, format_at_load, quantized_bytes
from segue.model.weights.draft_tokens import tokens_of_folder
from segue.model.weights.quantization import WeightFormat
from segue.parallel.rank import FIRST_OF_ONE, Rank


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A checkpoint as served with these settings."""

    folder: Path
    config: ModelConfig
    """Without MTP layers if none is served; with the tokens that may be drafted."""
    dtype: str
    device: str
    prefill_attention: str
    """See `EngineConfig`."""
    quantization: str
    """The format that weights are quantised to at load."""
    weight_bytes: int
    """Of each rank."""
    layout: CacheLayout
    """Of whole pages and slots, not of a rank's part."""
    rank: Rank = FIRST_OF_ONE
    """The first rank."""

    @classmethod
    def of(cls, folder: Path, engine: EngineConfig, *, skip_tokenizer: bool = True) -> Self:
        """Raises InvalidCheckpoint, and InvalidConfig for more than one MTP layer, for quantising
        weights that are already quantised, or activations of plain weights."""
        facts = check_folder(
            folder,
            skip_tokenizer=skip_tokenizer,
            quantizes_activations=engine.quantize_activations,
        )
        _check_quantization(folder, facts.config, engine)
        dtype = _dtype(facts.config, engine)
        with_mtp = engine.mtp and facts.has_mtp_layer
        drafts = (
            tokens_of_folder(folder, facts.config.vocab_size, engine.draft_vocabulary)
            if with_mtp
            else None
        )
        facts = replace(facts, config=replace(facts.config, draft_tokens=drafts))
        return cls._composed(
            folder,
            facts.config,
            engine,
            weight_bytes=facts.weight_bytes(
                dtype, mtp=engine.mtp, rank=engine.ranks[0], quantization=engine.quantization
            ),
            with_mtp=with_mtp,
        )

    @classmethod
    def before_download(cls, folder: Path, engine: EngineConfig, *, published_bytes: int) -> Self:
        """An estimate, from a folder without the weights. `published_bytes`: their size."""
        config = ModelConfig.from_folder(folder)
        _check_quantization(folder, config, engine)
        dtype_bytes = DTYPE_BYTES[_dtype(config, engine)]
        weight_bytes = published_bytes * dtype_bytes // DTYPE_BYTES[config.dtype]
        if engine.quantization != NONE:
            weight_bytes = _quantised_bytes(config, weight_bytes, dtype_bytes, engine.quantization)
        return cls._composed(
            folder,
            config,
            engine,
            weight_bytes=weight_bytes // engine.tensor_parallel,
            with_mtp=engine.mtp and config.num_mtp_layers == 1,
        )

    @classmethod
    def _composed(
        cls,
        folder: Path,
        config: ModelConfig,
        engine: EngineConfig,
        *,
        weight_bytes: int,
        with_mtp: bool,
    ) -> Self:
        dtype = _dtype(config, engine)
        return cls(
            folder=folder,
            config=config if with_mtp else replace(config, num_mtp_layers=0),
            dtype=dtype,
            device=engine.device,
            prefill_attention=engine.prefill_attention,
            quantization=engine.quantization,
            weight_bytes=weight_bytes,
            rank=engine.ranks[0],
            layout=cache_layout(
                config,
                model_id=quantised_id(
                    model_id(folder), engine.quantization, activations=engine.quantize_activations
                ),
                page_tokens=engine.page_tokens,
                dtype=dtype,
                kv_dtype=engine.stored_dtype(dtype),
                with_mtp=with_mtp,
            ),
        )

    def layout_of(self, rank: Rank) -> CacheLayout:
        """The layout of a rank's part of the cache. Raises InvalidConfig if the model cannot be
        split like this."""
        config_of_rank(self.config, rank)
        return layout_of_rank(self.layout, rank)

    def need(self, *, max_drafts: int) -> WorkerNeed:
        """The memory that each rank needs. `max_drafts`: per running sequence, if the model can
        draft."""
        return WorkerNeed(
            weight_bytes=self.weight_bytes,
            layout=self.layout_of(self.rank),
            max_context=self.config.max_position_embeddings,
            max_drafts=max_drafts if self.config.num_mtp_layers else 0,
        )


def _dtype(config: ModelConfig, engine: EngineConfig) -> str:
    return config.dtype if engine.dtype == AUTO else engine.dtype


def _check_quantization(folder: Path, config: ModelConfig, engine: EngineConfig) -> None:
    if config.quantization is None and engine.quantize_activations:
        raise InvalidConfig(
            "[engine] quantize_activations needs weights in FP8 or NVFP4, and those of "
            f"{folder} are plain: leave the setting out, or serve a quantised release"
        )
    if config.quantization is not None and engine.quantization != NONE:
        raise InvalidConfig(
            f'[engine] quantization = "{engine.quantization}" needs plain weights, and those of '
            f"{folder} are quantised ({config.quantization.method}): leave the setting out, or "
            "serve the plain release"
        )


def _quantised_bytes(
    config: ModelConfig, plain_bytes: int, dtype_bytes: int, quantization: str
) -> int:
    """An estimate, as if all weights but the embedding were quantised matrices."""
    embedding = config.vocab_size * config.hidden_size
    others = plain_bytes // dtype_bytes - embedding * (1 if config.tie_word_embeddings else 2)
    head = quantized_bytes(
        (config.vocab_size, config.hidden_size), format_at_load(HEAD, quantization)
    )
    rows = max(others, 0) // config.hidden_size
    matrices = quantized_bytes((rows, config.hidden_size), WeightFormat(quantization))
    return embedding * dtype_bytes + head + matrices
