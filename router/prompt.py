"""A turn's input to token ids, with everything refused here that no worker could serve."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from segue.model.config import ModelConfig
from segue.model.model_id import model_id
from segue.text.limits import validate_against_vocab, validate_prompt
from segue.text.prompt import PromptEncoder
from segue.turn import TurnSpec
from segue.types import TurnRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBuilder:
    """The checkpoint's tokenizer, chat template and limits."""

    encoder: PromptEncoder
    config: ModelConfig
    model_id: str
    """Empty where the folder has no weights: the workers know which ones are served."""

    @classmethod
    def from_folder(cls, folder: Path) -> PromptBuilder:
        """Raises InvalidCheckpoint."""
        return cls(
            encoder=PromptEncoder.from_folder(folder),
            config=ModelConfig.from_folder(folder),
            model_id=model_id(folder) if any(folder.glob("*.safetensors")) else "",
        )

    def build(self, request: TurnRequest) -> TurnSpec:
        """The turn in tokens; its answer ends where the context does. Raises InvalidRequest."""
        vocab_size = self.config.vocab_size
        prompt = self.encoder.encode(request.input)
        max_tokens = validate_prompt(
            prompt, vocab_size, self.config.max_position_embeddings, request.stop.max_tokens
        )
        validate_against_vocab(request.sampling, request.stop, vocab_size)
        return TurnSpec(
            turn_id=request.turn_id,
            session_id=request.session_id,
            prompt=prompt,
            sampling=request.sampling,
            stop=replace(request.stop, max_tokens=max_tokens),
            branch_points=self.encoder.branch_points(prompt, request.input),
        )
