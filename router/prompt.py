"""A turn's input to token ids, with everything refused here that no worker could serve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segue.errors import InvalidRequest
from segue.model.config import ModelConfig, model_id
from segue.text.chat import ChatTemplate
from segue.text.limits import validate_against_vocab, validate_prompt
from segue.text.tokenizer import Tokenizer
from segue.types import ChatInput, TextInput, TokenInput, TurnRequest, TurnSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBuilder:
    """The checkpoint's tokenizer, chat template and limits."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    config: ModelConfig
    model_id: str

    @classmethod
    def from_folder(cls, folder: Path) -> PromptBuilder:
        """Raises InvalidCheckpoint."""
        return cls(
            tokenizer=Tokenizer.from_folder(folder),
            template=ChatTemplate.from_folder(folder),
            config=ModelConfig.from_folder(folder),
            model_id=model_id(folder),
        )

    def build(self, request: TurnRequest) -> TurnSpec:
        """The turn in tokens. Raises InvalidRequest and its kinds."""
        prompt = self._tokens(request)
        config = self.config
        validate_prompt(
            prompt,
            vocab_size=config.vocab_size,
            max_context=config.max_position_embeddings,
        )
        validate_against_vocab(request.sampling, request.stop, vocab_size=config.vocab_size)
        return TurnSpec(
            turn_id=request.turn_id,
            session_id=request.session_id,
            prompt=prompt,
            sampling=request.sampling,
            stop=request.stop,
        )

    def _tokens(self, request: TurnRequest) -> tuple[int, ...]:
        match request.input:
            case TokenInput(token_ids):
                return token_ids
            case TextInput(text):
                return tuple(self.tokenizer.encode(text))
            case ChatInput() as chat:
                if self.template is None:
                    raise InvalidRequest(
                        "the checkpoint has no chat template; send text or token ids instead"
                    )
                return tuple(self.tokenizer.encode(self.template.render(chat)))
