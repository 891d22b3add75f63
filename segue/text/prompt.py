"""What a client sends, as token ids: the one way from a turn's input to a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segue.errors import InvalidRequest
from segue.text.chat import ChatTemplate
from segue.text.conversation import read_conversation
from segue.text.tokenizer import Tokenizer
from segue.types import ChatInput, TextInput, TokenInput, TurnInput

MESSAGE_START = "<|im_start|>"
"""How Qwen's templates begin a message."""


class PromptEncoder:
    """Renders and tokenises for one checkpoint."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        """The template was made with the marks of this tokenizer."""
        self.tokenizer = tokenizer
        self.template = template
        self._message_start_id = tokenizer.token_id(MESSAGE_START)

    @classmethod
    def from_folder(cls, folder: Path) -> PromptEncoder:
        """Raises InvalidCheckpoint."""
        tokenizer = Tokenizer.from_folder(folder)
        return cls(tokenizer, ChatTemplate.from_folder(folder, tokenizer.marks))

    def encode(self, turn_input: TurnInput) -> tuple[int, ...]:
        """The prompt's ids, unchecked against any limit (see `limits.py`). Raises InvalidRequest.

        In a chat, control tokens are the template's alone. A text is the whole prompt and its
        sender's own affair: control tokens in it are read as such.
        """
        match turn_input:
            case TokenInput(token_ids):
                return token_ids
            case TextInput(text):
                return tuple(self.tokenizer.encode(text))
            case ChatInput():
                return self._encode_chat(turn_input)

    def branch_points(self, prompt: Sequence[int]) -> tuple[int, ...]:
        """Where other conversations may part from this one: after system message and tools.

        Messages begin with a control token, which nobody but the template can write (`shield.py`).
        """
        starts = (i for i, token_id in enumerate(prompt) if token_id == self._message_start_id)
        first = next(starts, None)
        second = next(starts, None)
        return () if first is None or second is None else (second,)

    def _encode_chat(self, chat: ChatInput) -> tuple[int, ...]:
        if self.template is None:
            raise InvalidRequest(
                "expected text or token ids, got chat messages: this checkpoint has no chat "
                "template; send the prompt as text or as token ids"
            )
        text = self.template.render_marked(read_conversation(chat))
        return tuple(self.tokenizer.encode_marked(text))
