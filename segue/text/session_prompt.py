"""Builds the prompt of a session's next turn from its last one: only new messages are rendered and
tokenised.

`replay/` renders them. Token ids are joined after a control token: marks (`shield.py`) cut a
prompt into pieces that are tokenised separately, so ids up to a mark do not depend on what follows
it. The text between the last mark and the end of a message is tokenised with what follows; in
Qwen's format it is one line break.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from segue.api.types import ChatInput
from segue.text.chat import ChatTemplate
from segue.text.conversation import JsonObject, read_template_kwargs, read_tool
from segue.text.replay.echo import means_the_same
from segue.text.replay.fold import FoldedMessages, Place
from segue.text.replay.rendering import Emitted, Replay
from segue.text.replay.segments import LoopMemory
from segue.text.tokens.tokenizer import Tokenizer

_MAX_KEPT_TOOLS = 64
# Larger sets of tools are parsed again for each turn.
_MAX_KEPT_TOOLS_CHARACTERS = 1 << 18


@dataclass(frozen=True, slots=True)
class Echo:
    """An answer that the client sent back, rendered as `text`, and the ids that were generated."""

    index: int
    text: str
    ids: array[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecord:
    """The state of a prompt that the session's next prompt needs, besides the ids."""

    options: tuple[object, ...]
    """The template's variables except messages."""
    places: Sequence[Place]
    loops: tuple[LoopMemory, ...]
    head: str
    """The text before the messages."""
    starts: Sequence[int] = ()
    """For each message, the number of final ids before its text."""
    waiting: Sequence[str] = ()
    """For each message, the text between these ids and its own text."""
    answer: array[int] = field(default_factory=lambda: array("I"))
    """The ids that followed `starts[-1]`: how the prompt opens the answer, and the answer."""
    echoed: tuple[Echo, ...] = ()
    """The answers of earlier turns that the client sent back in another form."""

    def with_answer(self, tokens: Sequence[int]) -> PromptRecord:
        """`tokens` are the turn's prompt and its answer."""
        return replace(self, answer=array("I", tokens[self.starts[-1] :])) if self.starts else self


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPrompt:
    """A prompt: the first `num_kept` ids of the session's last prompt, followed by `ids`."""

    num_kept: int
    ids: array[int]
    memory: PromptRecord | None = None


def continue_prompt(
    chat: ChatInput,
    template: ChatTemplate,
    tokenizer: Tokenizer,
    memory: PromptRecord | None,
    num_same: int,
) -> SessionPrompt | None:
    """None if the prompt has to be rendered in full. Raises InvalidRequest.

    The first `num_same` messages of `chat` are those that `memory` was made from.
    """
    if chat.continued_field or not chat.add_generation_prompt:
        return None
    options = (chat.tools, chat.enable_thinking, chat.chat_template_kwargs)
    if memory is None or memory.options != options:
        memory, num_same = PromptRecord(options=options, places=[], loops=(), head=""), 0
    tools = _read_tools(chat.tools)
    program = template.program(tools)
    messages = FoldedMessages(chat.messages, program, memory.places, num_same)
    replay = program.local.render(
        template.options(program, tools, read_template_kwargs(chat)),
        len(messages),
        messages.__getitem__,
        memory.loops,
        messages.num_same,
    )
    if replay is None or replay.emitted is None:
        return None
    return _join(memory, messages, replay, replay.emitted, chat.tools, tokenizer)


def _join(
    memory: PromptRecord,
    messages: FoldedMessages,
    replay: Replay,
    emitted: Emitted,
    tools: tuple[str, ...],
    tokenizer: Tokenizer,
) -> SessionPrompt | None:
    head = "".join(replay.pieces[: emitted.first_piece])
    skipped = emitted.skipped
    ids = array("I")
    starts, waiting = list(memory.starts[:skipped]), list(memory.waiting[:skipped])
    if not skipped:
        num_kept, rest = 0, tokenizer.encode_to_last_mark(head, ids)
    elif head == memory.head and skipped < len(memory.starts):
        num_kept, rest = memory.starts[skipped], memory.waiting[skipped]
    else:
        return None
    echoed = [echo for echo in memory.echoed if echo.index < skipped]
    for first, end in pairwise((emitted.first_piece, *emitted.ends)):
        index = len(starts)
        starts.append(num_kept + len(ids))
        waiting.append(rest)
        text = rest + "".join(replay.pieces[first:end])
        written = array("I")
        rest = tokenizer.encode_to_last_mark(text, written)
        if echo := _find_echo(memory, index, text, written, tools, tokenizer):
            echoed.append(echo)
        ids.extend(echo.ids if echo else written)
    # The end of the loop: the next message would start here.
    starts.append(num_kept + len(ids))
    waiting.append(rest)
    last = emitted.ends[-1] if emitted.ends else emitted.first_piece
    ids.extend(tokenizer.encode_marked(rest + "".join(replay.pieces[last:])))
    return SessionPrompt(
        num_kept=num_kept,
        ids=ids,
        memory=PromptRecord(
            options=memory.options,
            places=messages.places,
            loops=tuple(replay.loops),
            head=head,
            starts=starts,
            waiting=waiting,
            echoed=tuple(echoed),
        ),
    )


def _find_echo(
    memory: PromptRecord,
    index: int,
    text: str,
    written: array[int],
    tools: tuple[str, ...],
    tokenizer: Tokenizer,
) -> Echo | None:
    """The generated ids of the message that is rendered as `text` and encoded as `written`, if they
    mean the same and differ."""
    for echo in memory.echoed:
        if echo.index == index and echo.text == text:
            return echo
    if not memory.answer or index != len(memory.starts) - 1:
        return None
    ids = memory.answer
    if not written or written[: len(ids)] == ids:
        return None
    # An answer that ended at a limit or a stop string has no end token yet.
    if ids[-1] != written[-1]:
        ids = ids + written[-1:]
    rendered, generated = (tokenizer.decode(one[:-1], skip_special=False) for one in (written, ids))
    return Echo(index, text, ids) if means_the_same(rendered, generated, tools) else None


def _read_tools(tools: tuple[str, ...]) -> list[JsonObject]:
    if sum(map(len, tools)) > _MAX_KEPT_TOOLS_CHARACTERS:
        return _parse_tools(tools)
    return _kept_tools(tools)


def _parse_tools(tools: tuple[str, ...]) -> list[JsonObject]:
    return [read_tool(index, text) for index, text in enumerate(tools)]


# Safe to share: the sandbox does not let a template change them.
_kept_tools = functools.lru_cache(_MAX_KEPT_TOOLS)(_parse_tools)
