"""A conversation through the SDK: tools, reasoning that a template drops, a fork.

A turn's expected answer is what `transformers` renders and generates for all messages of the
client, from scratch.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from segue import Client, Session
from segue.api.turn import TokenDelta, TurnEnd
from segue.api.types import ChatInput, Message, StopConditions, ToolCall
from segue.demo.corpus.exchanges import TOOLS
from segue.text.conversation import read_conversation
from segue.v1 import session_pb2 as pb
from tests.cluster.conftest import LocalCluster
from tests.cluster.oracle import oracle_of

SYSTEM = "Be brief."
DEMO_TOOLS = tuple(json.dumps(tool) for tool in TOOLS.values())
STOP = StopConditions(max_tokens=30)
BRIEF = StopConditions(max_tokens=18)
"""For random weights, whose answers do not end: longer than a page of 16 tokens."""
FORK_AT = 6
CALL = ToolCall(name="get_weather", arguments='{"city": "Paris"}')


def result(**values: object) -> Message:
    return Message(role="tool", content=json.dumps(values))


SCRIPT: tuple[str | Message, ...] = (
    "My city is Lisbon.",
    "What is the weather in Paris?",
    result(temperature=21, sky="clear"),
    "How much is a lamp?",
    result(price=70),
    "Count from 7 to 15.",
    "What time is it in Rome?",
    result(time="09:15"),
    "Is it warm in Oslo?",
    result(temperature=-3, sky="snowy"),
    "My pet is a cat.",
    "What is my city?",
)

# Qwen's templates keep the reasoning of answers since the last question and drop it before that.
# They put it on lines of its own; the demo model was trained without reasoning, and tolerates it
# only before the role.
QUERY = "{%- set ns = namespace(query=0) -%}{%- for message in messages -%}\
{%- if message.role == 'user' -%}{%- set ns.query = loop.index0 -%}{%- endif -%}{%- endfor -%}\n"
OPENING = "{{- '<|im_start|>assistant\\n' -}}"
THINKING = "{{- '<|im_start|> <think></think>assistant\\n' -}}"
SAYING = "{{- '<|im_start|>assistant\\n' ~ text -}}"
THOUGHT = "{{- '<|im_start|>' ~ (' <think>' ~ (message.reasoning_content or '') ~\
 '</think>' if loop.index0 > ns.query else '') ~ 'assistant\\n' ~ text -}}"


def with_thinking(source: Path, demo: Path, folder: Path) -> Path:
    """The checkpoint `source` with the demo's tokenizer and a template that drops reasoning."""
    shutil.copytree(source, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo / name, folder)
    template = (demo / "chat_template.jinja").read_text()
    assert OPENING in template
    assert SAYING in template
    template = template.replace(OPENING, THINKING).replace(SAYING, THOUGHT)
    (folder / "chat_template.jinja").write_text(QUERY + template)
    return folder


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One turn: all messages before its answer, as the client has them, and the answer."""

    messages: tuple[Message, ...]
    answer: list[int]
    end: TurnEnd
    follows_an_edit: bool = False
    """Whether the client edited the answer: it had no tool call, but a tool result follows."""

    @property
    def is_question(self) -> bool:
        return self.messages[-1].role == "user"


async def say(session: Session, new: str | Message, stop: StopConditions = STOP) -> TurnRecord:
    answer: list[int] = []
    async for event in session.turn(new, stop=stop, timeout_s=60):
        match event:
            case TokenDelta():
                answer.extend(event.token_ids)
            case TurnEnd():
                end = event
    return TurnRecord(tuple(session.messages[:-1]), answer, end)


async def converse(
    cluster: LocalCluster,
    name: str = "parent",
    *,
    system: str = SYSTEM,
    num_turns: int = len(SCRIPT),
    stop: StopConditions = STOP,
) -> list[TurnRecord]:
    """Runs the script and forks it on the way. At the end the parent continues from the fork."""
    parent = session = cluster.client.session(name, system=system, tools=DEMO_TOOLS)
    turns: list[TurnRecord] = []
    for index, new in enumerate(SCRIPT[:num_turns]):
        if index == FORK_AT:
            session = await parent.fork(f"{name}-child")
        is_edited = isinstance(new, Message) and not session.messages[-1].tool_calls
        if is_edited:
            # Random weights produce no calls, but a result may only follow a call.
            session.messages[-1] = replace(
                session.messages[-1], reasoning="A tool knows.", tool_calls=(CALL,)
            )
        turns.append(replace(await say(session, new, stop), follows_an_edit=is_edited))
        cluster.check_invariants()
    return [*turns, await say(parent, "What is my city?", stop)]


async def converse_briefly(
    cluster: LocalCluster, name: str = "parent", *, system: str = SYSTEM
) -> list[TurnRecord]:
    """`converse` for random weights: all kinds of turns, with shorter answers."""
    return await converse(cluster, name, system=system, num_turns=FORK_AT + 4, stop=BRIEF)


async def wrong_turns(turns: Sequence[TurnRecord], folder: Path) -> list[int]:
    """The turns whose answers differ from what `transformers` computes for all messages."""

    def look() -> list[int]:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        return oracle_of(folder).wrong(
            [(rendered(tokenizer, turn.messages), turn.answer) for turn in turns]
        )

    # In a thread: the cluster in this process must keep sending heartbeats.
    return await asyncio.to_thread(look)


def rendered(tokenizer: PreTrainedTokenizerFast, messages: tuple[Message, ...]) -> list[int]:
    conversation = read_conversation(ChatInput(messages=messages, tools=DEMO_TOOLS))
    ids: list[int] = tokenizer.apply_chat_template(
        conversation.messages,
        tools=conversation.tools,
        add_generation_prompt=True,
        return_dict=False,
    )
    return ids


class Wire:
    """Counts the bytes of the turns that a client sends."""

    def __init__(self, client: Client) -> None:
        self.requests: list[pb.GenerateRequest] = []
        (link,) = client._targets.links
        self._start = link.turns.start
        link.turns.start = self._weigh  # type: ignore[method-assign]

    def _weigh(self, request: pb.GenerateRequest, timeout_s: float | None, api_key: str) -> Any:
        self.requests.append(request)
        return self._start(request, timeout_s, api_key)

    @property
    def num_messages(self) -> list[int]:
        return [len(request.chat.messages) for request in self.requests]
