"""A turn's input to token ids, with everything refused here that no worker could serve.

What the client left open is filled in here, and nowhere else: sampling and end tokens from the
checkpoint (`segue/model/generation.py`), the longest answer from context and memory (`pools.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from router.pools import Pools, answer_tokens
from segue.errors import InvalidRequest
from segue.model.config import ModelConfig
from segue.model.generation import GenerationDefaults
from segue.model.model_id import model_id
from segue.model.settings import AS_PUBLISHED, CheckpointConfig
from segue.text.ids_only import IdEncoder
from segue.text.limits import validate_against_vocab, validate_prompt
from segue.text.prompt import PromptEncoder
from segue.turn import TurnSpec
from segue.types import StopConditions, StopRules, TurnRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBuilder:
    """The checkpoint's tokenizer, chat template, defaults and limits."""

    encoder: PromptEncoder | IdEncoder
    config: ModelConfig
    defaults: GenerationDefaults
    model_id: str
    """Empty where the folder has no weights: the workers know which ones are served."""

    @classmethod
    def from_folder(
        cls, folder: Path, checkpoint: CheckpointConfig = AS_PUBLISHED
    ) -> PromptBuilder:
        """Raises InvalidCheckpoint."""
        with_file = checkpoint.generation_config == "auto"
        encoder: PromptEncoder | IdEncoder
        if checkpoint.skip_tokenizer:
            encoder = IdEncoder()
            defaults = GenerationDefaults.from_folder(folder, with_file=with_file)
        else:
            encoder = PromptEncoder.from_folder(folder)
            defaults = GenerationDefaults.from_folder(
                folder, token_id=encoder.tokenizer.token_id, with_file=with_file
            )
        return cls(
            encoder=encoder,
            config=ModelConfig.from_folder(folder),
            defaults=defaults,
            model_id=model_id(folder) if any(folder.glob("*.safetensors")) else "",
        )

    def build(self, request: TurnRequest, pools: Pools) -> TurnSpec:
        """The turn in tokens; its answer ends where context or memory do. Raises InvalidRequest."""
        vocab_size, max_context = self.config.vocab_size, self.config.max_position_embeddings
        prompt = self.encoder.encode(request.input)
        validate_prompt(prompt, vocab_size, max_context)
        sampling = request.sampling.resolved(self.defaults.sampling)
        stop = self._rules(
            request.stop,
            answer_tokens(
                len(prompt), request.stop.max_tokens, max_context=max_context, pools=pools
            ),
        )
        validate_against_vocab(sampling, request.stop, vocab_size)
        return TurnSpec(
            turn_id=request.turn_id,
            session_id=request.session_id,
            prompt=prompt,
            sampling=sampling,
            stop=stop,
            branch_points=self.encoder.branch_points(prompt),
        )

    def _rules(self, asked: StopConditions, max_tokens: int) -> StopRules:
        if asked.stop_strings and isinstance(self.encoder, IdEncoder):
            raise InvalidRequest(
                "stop strings need text, and this model is served without a tokenizer: "
                "use stop token ids"
            )
        end_ids = () if asked.ignore_eos else self.defaults.end_ids
        return StopRules(
            max_tokens=max_tokens,
            stop_strings=asked.stop_strings,
            stop_token_ids=tuple(dict.fromkeys((*asked.stop_token_ids, *end_ids))),
        )
