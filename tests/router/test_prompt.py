"""Prompts in the router: refused by size, built outside its event loop, continued."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from array import array
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from router.sessions.helper import PromptHelper
from router.sessions.history import Completed, History, TurnTokens, complete
from router.sessions.prompt import PromptBuilder
from router.sessions.table import SessionTable
from segue.answers import ParserNames
from segue.api.errors import ContextOverflow, InvalidRequest, Overloaded, Unavailable
from segue.api.history import continuation
from segue.api.turn import FinishReason, TurnEnd
from segue.api.types import (
    ChatInput,
    Message,
    SessionId,
    StopConditions,
    TextInput,
    TokenInput,
    ToolCall,
    TurnId,
    TurnInput,
    TurnRequest,
)
from segue.text.limits import SizeLimits, num_characters

DEMO = Path(__file__).parents[2] / "segue" / "demo" / "checkpoint"
SESSION = SessionId("s")
CONTEXT = 100_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text side of the demo checkpoint, with a longer context."""
    folder = tmp_path_factory.mktemp("long")
    for name in ("tokenizer.json", "chat_template.jinja", "tokenizer_config.json"):
        shutil.copyfile(DEMO / name, folder / name)
    config = json.loads((DEMO / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT}))
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prompts(folder: Path) -> AsyncIterator[PromptBuilder]:
    """Starts its helper once."""
    prompts = PromptBuilder.from_folder(folder)
    yield prompts
    await prompts.close()


def asked(turn_input: TurnInput, session_id: SessionId = SESSION) -> TurnRequest:
    return TurnRequest(session_id=session_id, turn_id=TurnId("t"), input=turn_input)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def chat_of(text: str) -> ChatInput:
    return ChatInput(messages=(user(text),))


CALL = Message(role="assistant", tool_calls=(ToolCall(name="f", arguments="x" * 5000),))


@pytest.mark.parametrize(
    "chat",
    [
        chat_of("x" * 5000),
        ChatInput(messages=(user("a"), CALL)),
        ChatInput(messages=(user("a"), Message(role="assistant", reasoning="x" * 5000))),
        ChatInput(messages=(replace(user("a"), name="x" * 5000),)),
        ChatInput(messages=(Message(role="user", content_parts=("x" * 2500, "y" * 2500)),)),
        ChatInput(messages=(user("a"),), tools=("x" * 5000,)),
        ChatInput(messages=(user("a"),), chat_template_kwargs="x" * 5000),
        TextInput("x" * 5000),
    ],
    ids=["content", "arguments", "reasoning", "name", "parts", "tools", "kwargs", "text"],
)
def test_every_character_of_a_request_counts(chat: TurnInput) -> None:
    limits = SizeLimits(max_bytes=4000, max_context=1000, longest_token=8)

    with pytest.raises(
        ContextOverflow, match=r"too long: 50\d\d characters.*at most 4000.*max_prompt"
    ):
        limits.validate(chat)
    replace(limits, max_bytes=6000).validate(chat)


def test_a_text_too_long_for_any_tokenizer_is_refused_with_the_numbers() -> None:
    limits = SizeLimits(max_bytes=1 << 30, max_context=200_000, longest_token=10)

    limits.validate(chat_of("x" * 1_999_990))
    with pytest.raises(ContextOverflow, match=r"2000004 characters.*200000 tokens of at most 10"):
        limits.validate(chat_of("x" * 2_000_000))
    with pytest.raises(ContextOverflow, match="2000005 characters"):
        limits.validate(chat_of("x"), characters_before=2_000_000)
    with pytest.raises(ContextOverflow, match="200001 messages, parts"):
        limits.validate_num_items(200_001)


def test_tokenizing_a_text_that_grows_too_long_stops_early(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = PromptBuilder.from_folder(folder).encoder.tokenizer
    tokenizer.max_ids = 1000
    encoded: list[int] = []
    encode_part = tokenizer._encode_part

    def counted(part: str) -> array[int]:
        encoded.append(len(part))
        return encode_part(part)

    monkeypatch.setattr(tokenizer, "_encode_part", counted)

    with pytest.raises(ContextOverflow, match="prompt is too long: more than 1000 tokens"):
        tokenizer.encode("word " * 2_000_000)

    # Of 10,000,000 characters.
    assert 0 < sum(encoded) < 500_000


@pytest.mark.asyncio(loop_scope="module")
async def test_a_long_prompt_is_the_same_on_each_of_the_three_paths(
    prompts: PromptBuilder,
) -> None:
    short, medium, long = (chat_of("Where is the größte one? " * num) for num in (5, 1_000, 6_000))
    for chat in (short, medium, long):
        made = await prompts.make(Completed(asked(chat)))

        assert tuple(made.spec.context) == prompts.encoder.encode(chat)
        assert made.memory is not None
        assert tuple(await prompts.encode(chat)) == tuple(made.spec.context)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_helper_refuses_like_the_router(
    prompts: PromptBuilder,
) -> None:
    call = ToolCall(name="f", arguments="[" + "1," * 100_000 + "1]")
    chat = ChatInput(messages=(user("a"), Message(role="assistant", tool_calls=(call,))))

    with pytest.raises(InvalidRequest, match=r"messages\[1\].tool_calls\[0\].*got an array"):
        await prompts.make(Completed(asked(chat)))
    with pytest.raises(ContextOverflow, match=f"more than {CONTEXT} tokens"):
        await prompts.make(Completed(asked(chat_of("a1" * 100_000))))


@pytest.mark.asyncio(loop_scope="module")
async def test_a_request_of_megabytes_costs_the_router_next_to_nothing(
    prompts: PromptBuilder,
) -> None:
    deep = json.dumps({"a": [[1, 2, {"b": "c"}]] * 60_000})
    call = ToolCall(name="f", arguments=deep)
    chat = ChatInput(messages=(user("a"), Message(role="assistant", tool_calls=(call,))))
    # Starts the helper.
    await prompts.make(Completed(asked(chat_of("word " * 30_000))))

    # CPU time of this process alone, in all threads: it would stall the event loop.
    began_s = time.process_time()
    with pytest.raises(ContextOverflow):
        await prompts.make(Completed(asked(chat)))
    beside_s = time.process_time() - began_s
    began_s = time.process_time()
    with pytest.raises(ContextOverflow):
        prompts.build(Completed(asked(chat)))
    here_s = time.process_time() - began_s

    assert beside_s < here_s / 5


@pytest.mark.asyncio
async def test_a_helper_that_dies_is_started_again(folder: Path) -> None:
    helper = PromptHelper(folder, CONTEXT)

    async def ask() -> array[int]:
        made = await helper.encode_turn(chat_of("one two"), None, 0, num_characters=7)
        return made.ids

    first = await ask()
    assert helper.process_id is not None
    os.kill(helper.process_id, signal.SIGKILL)

    assert await ask() == first
    await helper.close()


@pytest.mark.asyncio
async def test_a_prompt_that_takes_too_long_is_refused_and_the_next_one_is_built(
    folder: Path,
) -> None:
    helper = PromptHelper(folder, CONTEXT, max_job_s=0.5)
    word = chat_of("x" * 8_000_000)

    with pytest.raises(InvalidRequest, match=r"within 0\.5 s: shorten"):
        await helper.encode_turn(word, None, 0, num_characters=8_000_000)

    assert (await helper.encode_turn(chat_of("one"), None, 0, num_characters=3)).ids
    await helper.close()


@pytest.mark.asyncio
async def test_closing_does_not_wait_for_prompts(folder: Path) -> None:
    helper = PromptHelper(folder, CONTEXT)
    await helper.encode_turn(chat_of("one"), None, 0, num_characters=3)
    word = chat_of("x" * 8_000_000)
    waiting = [
        asyncio.ensure_future(helper.encode_turn(word, None, 0, num_characters=1)) for _ in range(3)
    ]
    await asyncio.sleep(0)
    process_id = helper.process_id
    assert process_id is not None

    async with asyncio.timeout(10):
        await helper.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)

    assert all(isinstance(one, Unavailable | asyncio.CancelledError) for one in results)
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)


@pytest.mark.asyncio
async def test_a_helper_that_ended_leaves_nothing_behind(folder: Path) -> None:
    helper = PromptHelper(folder, CONTEXT)
    helper.reap()
    await helper.encode_turn(chat_of("one"), None, 0, num_characters=3)
    assert helper.process_id is not None
    os.kill(helper.process_id, signal.SIGKILL)
    while Path(f"/proc/{helper.process_id}").exists():
        await asyncio.sleep(0.01)
        helper.reap()

    assert (await helper.encode_turn(chat_of("one"), None, 0, num_characters=3)).ids
    await helper.close()


@pytest.mark.asyncio
async def test_a_helper_that_cannot_start_raises_its_error(tmp_path: Path) -> None:
    helper = PromptHelper(tmp_path, CONTEXT)

    with pytest.raises(Unavailable, match="tokenises long prompts has exited"):
        await helper.encode_turn(chat_of("one two"), None, 0, num_characters=7)
    await helper.close()


@pytest.mark.asyncio
async def test_the_queue_for_the_helper_is_bounded(folder: Path) -> None:
    helper = PromptHelper(folder, CONTEXT)
    waiting = [
        asyncio.ensure_future(
            helper.encode_turn(chat_of(f"number {n}"), None, 0, num_characters=16 << 20)
        )
        for n in range(6)
    ]

    results = await asyncio.gather(*waiting, return_exceptions=True)

    refused = [one for one in results if isinstance(one, Overloaded)]
    assert len(refused) == 2
    assert all(one.retry_after_s > 60 for one in refused)
    await helper.encode_turn(chat_of("after them"), None, 0, num_characters=16 << 20)
    await helper.close()


class Talk:
    """A session as the router keeps it, and the cost of its turns."""

    def __init__(self, prompts: PromptBuilder) -> None:
        self._table = SessionTable(max_sessions=1, history_bytes=1 << 26)
        self._prompts = prompts
        self._messages: tuple[Message, ...] = ()
        self._num_kept = 0

    def turn(self, *new: Message) -> Completed:
        self._messages += new
        chat = ChatInput(messages=self._messages)
        sent = continuation(chat, self._num_kept) if self._num_kept else chat
        table, known = self._table, self._table.history(SESSION)
        completed = complete(asked(sent), known)
        built = self._prompts.build(completed)
        prompt = TurnTokens.of(
            built.spec.context, table.tokens(SESSION), 16, known=known, num_kept=built.num_kept
        )
        end = table.record(
            table.of(SESSION),
            completed,
            prompt.with_answer((5, 6)),
            built.memory,
            TurnEnd(finish_reason=FinishReason.STOP),
        )
        self._num_kept = end.kept_messages
        self._messages += (Message(role="assistant", content="an answer"),)
        assert tuple(built.spec.context) == self._prompts.encoder.encode(chat)
        return completed

    @property
    def history(self) -> History:
        history = self._table.history(SESSION)
        assert history is not None
        return history


def test_a_turn_renders_and_tokenizes_only_what_is_new(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = PromptBuilder.from_folder(folder)
    talk = Talk(prompts)
    for number in range(30):
        talk.turn(user(f"question {number}"))
    encoder = prompts.encoder
    encoded: list[str] = []
    encode_to_last_mark = encoder.tokenizer.encode_to_last_mark

    def watched(text: str, ids: array[int]) -> str:
        encoded.append(text)
        return encode_to_last_mark(text, ids)

    monkeypatch.setattr(encoder.tokenizer, "encode_to_last_mark", watched)
    talk.turn(user("question 30"))

    # The last question, its answer, and the new question.
    assert [text.count("question") for text in encoded] == [1, 0, 1]


def test_answers_are_read_as_the_template_writes_them_unless_that_is_set(folder: Path) -> None:
    set_apart = PromptBuilder.from_folder(folder, parsers=ParserNames("hermes", "none"))

    assert PromptBuilder.from_folder(folder).parsers == ParserNames("qwen3_coder", "none")
    assert set_apart.parsers == ParserNames("hermes", "none")


def test_invalid_token_ids_are_refused(folder: Path) -> None:
    prompts = PromptBuilder.from_folder(folder)

    for ids in ((-1,), (1 << 40,), (1 << 31,)):
        with pytest.raises(InvalidRequest, match="ids"):
            prompts.build(Completed(asked(TokenInput(ids))))
    built = prompts.build(
        Completed(replace(asked(TokenInput((1, 2))), stop=StopConditions(max_tokens=5)))
    )
    assert tuple(built.spec.context) == (1, 2)


def test_re_rendered_tokens_are_counted_from_the_last_question_on(folder: Path) -> None:
    chat = ChatInput(messages=(user("x" * 100), CALL, user("y" * 10)))

    assert num_characters(chat, first=2) == len("user") + 10
    assert num_characters(chat) == sum(map(len, chat.texts()))
