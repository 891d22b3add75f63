"""Converts a turn's input to token ids, with a tokenizer or for a model without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from segue.api.errors import InvalidRequest
from segue.api.messages import THINK_END, THINK_START
from segue.api.types import ChatInput, Message, TextInput, TokenInput, TurnInput
from segue.text.chat import ChatTemplate
from segue.text.conversation import read_conversation
from segue.text.session_prompt import PromptRecord, SessionPrompt, continue_prompt
from segue.text.template.shape import TemplateShape, learn_shape
from segue.text.tokens.packed_ids import PackedIds, id_array
from segue.text.tokens.tokenizer import Tokenizer

MESSAGE_START = "<|im_start|>"
"""How Qwen's templates start a message."""

# For each template: it may write a different prompt for each of its options.
_MAX_SHAPES = 64
_NO_CHAT = ChatInput(messages=())
_SOME_TOOL = '{"type": "function", "function": {"name": "look", "parameters": {}}}'


@dataclass(frozen=True, slots=True)
class ThinkingTokens:
    """The control tokens around reasoning. None if the vocabulary has no such token: then nothing
    counts as reasoning.
    """

    start: int | None = None
    end: int | None = None
    message_start: int | None = None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self:
        return cls(*map(tokenizer.token_id, (THINK_START, THINK_END, MESSAGE_START)))

    def is_open(self, prompt: Sequence[int]) -> bool:
        """Whether a chat's prompt ends inside reasoning. Looks at its last message only."""
        if self.start is None:
            return False
        ends = (self.end, self.message_start)
        for token_id in reversed(prompt):
            if token_id == self.start:
                return True
            if token_id in ends:
                return False
        return False

    def num_in(self, answer: Sequence[int], *, is_open: bool) -> int:
        """The number of the answer's tokens up to the end of its reasoning. `is_open`: whether the
        prompt ended inside reasoning.
        """
        if not is_open and (self.start is None or self.start not in answer[:1]):
            return 0
        return answer.index(self.end) + 1 if self.end in answer else len(answer)


class PromptEncoder:
    """Renders and tokenises for one checkpoint."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        """`template` must have been made with the marks of this tokenizer."""
        self.tokenizer = tokenizer
        self.template = template
        self._message_start_id = tokenizer.token_id(MESSAGE_START)
        self.thinking = ThinkingTokens.of(tokenizer)
        self._shapes: dict[tuple[bool, bool | None, str], TemplateShape | None] = {}

    @classmethod
    def from_folder(cls, folder: Path, *, max_context: int | None = None) -> PromptEncoder:
        """A prompt may have at most `max_context` tokens. Raises InvalidCheckpoint."""
        tokenizer = Tokenizer.from_folder(folder)
        tokenizer.max_ids = max_context
        return cls(tokenizer, ChatTemplate.from_folder(folder, tokenizer.marks))

    @property
    def num_ids(self) -> int:
        return self.tokenizer.num_ids

    @property
    def longest_token(self) -> int:
        """In bytes."""
        return self.tokenizer.longest_token

    def encode(self, turn_input: TurnInput) -> tuple[int, ...]:
        """The prompt's ids, unchecked against any limit (see `limits.py`). Raises InvalidRequest.

        In a chat, only the template writes control tokens. A text is the whole prompt: control
        tokens in it are read as such.
        """
        match turn_input:
            case TokenInput(token_ids):
                return token_ids
            case TextInput(text):
                return tuple(self.tokenizer.encode(text))
            case ChatInput():
                return self._encode_chat(turn_input, turn_input.add_generation_prompt)

    def encode_turn(
        self, turn_input: TurnInput, memory: PromptRecord | None = None, num_same: int = 0
    ) -> SessionPrompt:
        """As `encode`, together with the state from which the session's next turn continues. Raises
        InvalidRequest.

        `memory` is from the session's last turn, which had the same first `num_same` messages.
        """
        if isinstance(turn_input, ChatInput) and self.template is not None:
            made = continue_prompt(turn_input, self.template, self.tokenizer, memory, num_same)
            if made is not None:
                return made
        return SessionPrompt(num_kept=0, ids=id_array(self.encode(turn_input)))

    def branch_points(
        self, prompt: Sequence[int], turn_input: TurnInput | None = None
    ) -> tuple[int, ...]:
        """Where other prompts may diverge from this one, ascending: other conversations after the
        system message and tools, and this conversation's next turn if the template then rewrites
        the answer (`template/shape.py`).

        Messages start with a control token, which only the template can write (`shield.py`). A
        prompt rendered elsewhere has them too, but the options it was rendered with are unknown.
        """
        shape = self._shape(turn_input if isinstance(turn_input, ChatInput) else _NO_CHAT)
        packed = PackedIds(prompt)
        points = set(shape.branch_points(packed)) if shape else set()
        points.add(self._second_message(packed, shape))
        return tuple(sorted(point for point in points if 0 < point < len(prompt)))

    def _second_message(self, prompt: PackedIds, shape: TemplateShape | None) -> int:
        """The start of the second message; 0 if it is missing or is the answer to generate."""
        first, after = self._message_start_id, self._message_start_id
        if shape and shape.header and shape.user:
            first, after = shape.user[0], shape.header[0]
        if first is None or after is None:
            return 0
        second = prompt.find(first, 0)
        if first == after and second >= 0:
            second = prompt.find(first, second + 1)
        return 0 if shape and second == shape.asked_at(prompt) else second

    def _shape(self, chat: ChatInput) -> TemplateShape | None:
        """The shape of the prompts that the template writes with the options of this chat."""
        if self.template is None:
            return None
        key = bool(chat.tools), chat.enable_thinking, chat.chat_template_kwargs
        if key not in self._shapes:
            if len(self._shapes) >= _MAX_SHAPES:
                self._shapes.clear()
            options = ChatInput(
                messages=(),
                tools=(_SOME_TOOL,) if chat.tools else (),
                enable_thinking=chat.enable_thinking,
                chat_template_kwargs=chat.chat_template_kwargs,
            )

            def render(messages: tuple[Message, ...], is_asked: bool) -> tuple[int, ...]:
                return self._encode_chat(replace(options, messages=messages), is_asked)

            self._shapes[key] = learn_shape(render, self.tokenizer.is_special)
        return self._shapes[key]

    def _encode_chat(self, chat: ChatInput, is_asked: bool = True) -> tuple[int, ...]:
        if self.template is None:
            raise InvalidRequest(
                "expected text or token ids, got chat messages: this checkpoint has no chat "
                "template; send the prompt as text or as token ids"
            )
        text = self.template.render_marked(read_conversation(chat), add_generation_prompt=is_asked)
        return tuple(self.tokenizer.encode_marked(text))


class IdEncoder:
    """Replaces `PromptEncoder` for a model that is served without a tokenizer."""

    longest_token = 1
    num_ids = 0
    thinking = ThinkingTokens()

    def encode(self, turn_input: TurnInput) -> tuple[int, ...]:
        """Raises InvalidRequest for any input that needs a tokenizer."""
        if isinstance(turn_input, TokenInput):
            return turn_input.token_ids
        got = "chat messages" if isinstance(turn_input, ChatInput) else "text"
        raise InvalidRequest(
            f"expected token ids, got {got}: this model is served without a tokenizer "
            "([checkpoint] skip_tokenizer); tokenise on your side, or serve it with its tokenizer"
        )

    def encode_turn(
        self, turn_input: TurnInput, memory: PromptRecord | None = None, num_same: int = 0
    ) -> SessionPrompt:
        """Raises InvalidRequest, as `encode` does."""
        return SessionPrompt(num_kept=0, ids=id_array(self.encode(turn_input)))

    def branch_points(
        self, prompt: Sequence[int], turn_input: TurnInput | None = None
    ) -> tuple[int, ...]:
        """Empty: message boundaries are unknown without a vocabulary."""
        return ()
