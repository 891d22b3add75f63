"""One model on one device, with its cache: from chunks of sequences to logits and drafts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Self

import torch
from torch import Tensor

from segue.cache.layout import E4M3, CacheLayout, Unit
from segue.cache.tensors import TORCH_DTYPES, CacheTensors
from segue.engine.batch import Chunk, DecodeChunk, DraftStart, PrefillChunk
from segue.engine.device.buffers import ScratchUnits, StepTables
from segue.engine.device.prompt_attention import prompt_attention
from segue.engine.device.sampling import DeviceSampling
from segue.engine.device.step import DeviceStep
from segue.engine.device.stream import WorkStream
from segue.engine.packing import pack
from segue.engine.scoring import Scoring, TokenScores
from segue.engine.served_model import ServedModel
from segue.engine.speculation.drafter import Drafter
from segue.kernels.compiling import compiling, zeroed_memory
from segue.kernels.paged_attention.flashinfer.prompts import PromptAttention
from segue.kernels.product import choice
from segue.model.batch import Batch
from segue.model.checkpoint.loading import load_weights
from segue.model.config import ModelConfig
from segue.model.qwen3_5 import Qwen3_5
from segue.model.ranks.config import config_of_rank
from segue.model.weights.stored import INPUT_SCALES
from segue.parallel.group import ALONE, Group

logger = logging.getLogger(__name__)

WARM_UP_TOKENS = 64
"""More rows than count as few for the choice of products, and more than one page."""


class ModelRunner:
    """Owns weights and cache memory. The caller tracks which sequence owns which pages and slots.

    Not thread-safe: one forward pass at a time. Other threads may read cache memory that the
    running pass does not write.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: dict[str, Tensor],
        layout: CacheLayout,
        tensors: CacheTensors,
        device: str,
        scratch: ScratchUnits | None = None,
        group: Group = ALONE,
        prompts: PromptAttention | None = None,
    ) -> None:
        """`config` and `layout` are the whole model's; `weights`, `tensors` and `prompts` are this
        rank's. `prompts`: None for our own attention kernel."""
        self.config = config
        self.layout = layout
        self.tensors = tensors
        self.has_mtp = any(field.group == "hidden" for field in layout.fields)
        """Whether the cache has the fields of an MTP layer, which `drafter` needs."""
        self._weights = weights
        own = config_of_rank(config, group.rank)
        self._model = Qwen3_5(own, weights, with_mtp=self.has_mtp, group=group)
        self.device = device
        self._prompts = prompts
        self.stream = WorkStream(device)
        """Runs the passes. With several ranks it also runs the steps: two streams could issue their
        collectives in a different order on each rank."""
        self.num_ranks = group.rank.count
        self.scratch = scratch
        """A page and a slot outside the pools."""

    @classmethod
    def load(
        cls,
        served: ServedModel,
        *,
        num_pages: int,
        num_slots: int,
        with_scratch: bool = False,
        group: Group = ALONE,
    ) -> Self:
        """Loads this rank's weights and allocates its cache.

        `with_scratch`: allocates one more page and slot, which device steps need. Raises
        InvalidCheckpoint if the weights do not fit the configuration, and InvalidConfig like
        `prompt_attention`.
        """
        device, layout = served.device, served.layout
        prompts = prompt_attention(served, group.rank)
        weights = load_weights(
            served.folder,
            served.config,
            dtype=TORCH_DTYPES[served.dtype],
            device=device,
            rank=group.rank,
            quantization=served.quantization,
        )
        tensors = CacheTensors.allocate(
            served.layout_of(group.rank),
            num_pages=num_pages + with_scratch,
            num_slots=num_slots + with_scratch,
            device=device,
        )
        scratch = ScratchUnits(num_pages, num_slots) if with_scratch else None
        runner = cls(served.config, weights, layout, tensors, device, scratch, group, prompts)
        if device == "cuda":
            # Weights and cache were filled on another stream than that of the passes.
            torch.cuda.synchronize()
        logger.info(
            "model loaded",
            extra={
                "folder": str(served.folder),
                "dtype": served.dtype,
                "device": device,
                "quantization": served.quantization,
                "rank": group.rank.index,
                "num_ranks": group.rank.count,
                "weight_bytes": runner.weight_bytes,
                "page_bytes": layout.page_bytes,
                "slot_bytes": layout.slot_bytes,
                "has_mtp": runner.has_mtp,
                "num_pages": num_pages,
                "num_slots": num_slots,
            },
        )
        return runner

    def close(self) -> None:
        """Stops the other ranks; does nothing with one rank."""

    @property
    def weight_bytes(self) -> int:
        """Size of all weights, including the draft layer; a tied matrix counts once."""
        return sum(tensor.nbytes for tensor in self._stored())

    @property
    def num_params(self) -> int:
        """Number of all weights; a tied matrix counts once."""
        return sum(tensor.numel() for tensor in self._stored())

    def _stored(self) -> Iterable[Tensor]:
        """Each weight once: a tied head shares the embedding's memory, unless it is quantised."""
        embed = self._weights["embed"].untyped_storage().data_ptr()
        return (
            tensor
            for name, tensor in self._weights.items()
            if name != "lm_head" or tensor.untyped_storage().data_ptr() != embed
        )

    def operators(self) -> str:
        """The operators in use, for a cluster's status. Products are added when first chosen."""
        computing = "triton" if self.device == "cuda" else choice.described()
        if self._prompts is not None:
            computing = f"{computing}, {self._prompts} for prompts"
        stored = {field.dtype for field in self.layout.of_unit(Unit.PAGE)}
        parts = [computing, *["FP8 pages"] * (E4M3 in stored)]
        if any(name.endswith(f".{INPUT_SCALES}") for name in self._weights):
            parts.append("quantised activations")
        return ", ".join(parts)

    @torch.inference_mode()
    def forward(
        self,
        chunks: Sequence[Chunk],
        *,
        on_layer: Callable[[int], None] | None = None,
        on_scores: Callable[[int, TokenScores], None] | None = None,
    ) -> Tensor:
        """Float32 logits [num_rows, vocab_size], chunk by chunk: one row for the last token of a
        prefill chunk, and one for every token of a decode chunk.

        Writes only the pages and output slots of the chunks. `on_layer(i)` is called on this thread
        when layer i has written its part of them; an MTP layer comes last. On a GPU the writes are
        only queued at that point, and done when this returns. Finally `on_scores` gets the index
        and the scores of each chunk with scored tokens.
        """
        with self.stream.use():
            scoring = Scoring(chunks, self.device) if on_scores is not None else None
            logits_RV = self._model.forward(
                self._pack(chunks), self.tensors, on_layer, scoring.take if scoring else None
            )
        self.stream.wait()
        if scoring is not None and on_scores is not None:
            for index, scores in scoring.of_chunks():
                on_scores(index, scores)
        return logits_RV

    def first_passes(
        self, *, pages: Sequence[int], slot: int, num_tokens: int, most_tokens: int
    ) -> None:
        """Runs a prompt of `num_tokens` and a step after it, before the first turn: kernels are
        compiled or chosen and working memory is allocated while no client waits. On a GPU the
        kernels of a pass of `most_tokens` are compiled too.

        No sequence may own `pages` and `slot`, and nothing else may use the runner meanwhile.
        """
        if self.device == "cuda":
            with compiling(ignore_errors=True), zeroed_memory():
                for num in (num_tokens, most_tokens):
                    self._run_prompt_and_step(pages, slot, num)
        self._run_prompt_and_step(pages, slot, num_tokens)

    def _run_prompt_and_step(self, pages: Sequence[int], slot: int, num_tokens: int) -> None:
        """Repeats `pages` if there are too few, which only compiling allows."""
        num_pages = num_tokens // self.layout.page_tokens + 1
        page_ids = [pages[i % len(pages)] for i in range(num_pages)]
        token_ids = [token % self.config.vocab_size for token in range(num_tokens)]
        prompt = PrefillChunk(
            token_ids=token_ids, start=0, page_ids=page_ids, slot_in=None, slot_out=slot
        )
        step = DecodeChunk(
            token_ids=token_ids[:1],
            start=num_tokens,
            page_ids=page_ids,
            slot_in=slot,
            slots_out=[slot],
        )
        for chunk in (prompt, step):
            # Not a leading rank's `forward`: the other ranks run these passes themselves.
            ModelRunner.forward(self, [chunk])

    def drafter(self, starts: Sequence[DraftStart]) -> Drafter:
        """Drafts for these sequences; requires `has_mtp`. Must not be used once their next forward
        pass has started, which may write the same positions."""
        return Drafter(
            self._model,
            self.tensors,
            starts,
            page_tokens=self.layout.page_tokens,
            device=self.device,
            stream=self.stream,
        )

    def device_step(self, tables: StepTables, sampling: DeviceSampling) -> DeviceStep:
        """Steps of the sequences in these tables, with this runner's model and cache."""
        return DeviceStep(self._model, self.tensors, tables, sampling)

    def _pack(self, chunks: Sequence[Chunk]) -> Batch:
        return pack(
            chunks,
            page_tokens=self.layout.page_tokens,
            device=self.device,
            keeps_hidden=self.has_mtp,
            plan_prompts=None if self._prompts is None else self._prompts.plan,
        )
